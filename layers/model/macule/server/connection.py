"""One connection of `worker.PollingWorker`: no thread waits for a client to send or receive.

The worker's poller receives from slow senders and sends to slow readers; a thread gets a request
only when all of it has arrived. A body that is not read is not waited for: the response has
`Connection: close`, and the poller discards the rest.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

from gunicorn.http import Request
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from macule.server.chunked import ChunkTracker

RECEIVE_BYTES = 2**18  # each call releases the GIL and may wait 5 ms to get it back
PIECE_BYTES = 2**16
WAKE_BYTES = 2**15  # the poller wakes up for this much, or for the rest
MAX_DISCARD_BYTES = 2**16  # of an unread body that has arrived: up to this, the connection is kept
UNSENT_BYTES = 2**16  # held by the kernel for a client that does not read
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyPending(BaseException):
    """Interrupts a request before its response; it runs again when its body has arrived.

    It is not an Exception, so that an application's handlers do not catch it.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.timeout_s = timeout_s


class Socket(socket.socket):
    """A client's socket; data that the client does not take at once stays in `unsent`."""

    def __init__(self, accepted: socket.socket) -> None:
        kind = accepted.family, accepted.type, accepted.proto
        super().__init__(*kind, fileno=accepted.detach())
        self.unsent = deque[memoryview]()
        with suppress(OSError):  # a socket of another family, or not Linux
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send what the client takes now, and keep the rest."""
        self.unsent.append(memoryview(data))
        self.flush()

    def flush(self) -> int:
        """Send what the client takes now; return the number of bytes."""
        total = 0
        while self.unsent:
            try:
                count = self.send(self.unsent[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            total += count
            left = self.unsent.popleft()[count:]
            if left:
                self.unsent.appendleft(left)
        return total

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that the client has not taken yet."""
        return sum(map(len, self.unsent))


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Gives gunicorn's parser the bytes received before, then those of the socket."""

    def __init__(self, sock: Socket) -> None:
        super().__init__(sock)
        self.received_bytes = 0
        self.has_ended = False  # nothing more is read from the socket
        self._pieces = deque[bytearray]()

    def receive(self, max_bytes: int) -> bytes | None:
        """Receive and keep what the socket has; None: nothing now; empty: the client has ended."""
        try:
            data: bytes = self.sock.recv(min(max_bytes, RECEIVE_BYTES), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if self._pieces and len(self._pieces[-1]) + len(data) <= PIECE_BYTES:
            self._pieces[-1] += data
        elif data:
            self._pieces.append(bytearray(data))
        self.received_bytes += len(data)
        return data

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes, more than gunicorn's usual chunk if the parser can take them."""
        if not self._pieces:
            return b"" if self.has_ended else super().chunk(size_hint)
        most = max(self.mxchunk, size_hint or 0)
        piece = self._pieces[0]
        if len(piece) <= most:
            data = bytes(self._pieces.popleft())
        else:
            data = bytes(memoryview(piece)[:most])
            del piece[:most]
        self.received_bytes -= len(data)
        return data

    def clear(self) -> None:
        """Discard the bytes received and not read."""
        self._pieces.clear()
        self.received_bytes = 0

    def unread_bytes(self) -> bytes:
        """Return the bytes received after the last request, and keep them for the next one."""
        self.has_ended = False
        while self._pieces:
            self.buf.seek(0, 2)
            self.buf.write(self.chunk())
        return bytes(self.buf.getvalue())


class RequestBody(Body):  # type: ignore[misc]
    """A request's body; the application reads it, or first lets the poller receive all of it.

    Args:
      length: None for a chunked body.
      expects: the client waits for a 100 before it sends.

    `computed` holds the application's results while the request waits for its body.
    """

    def __init__(self, reader: Any, unreader: Unreader, length: int | None, expects: bool) -> None:
        super().__init__(reader)
        self.computed: dict[Any, Any] = {}
        self.started_at = 0.0
        self.is_late = False  # it did not arrive in time
        self.is_pending = False
        self._unreader, self._length, self._expects = unreader, length, expects
        self._chunk_tracker: ChunkTracker | None = None
        self._left, self._received_total = length or 0, 0
        self._is_discarded: bool | None = None

    def wait_for_arrival(self, max_bytes: int, timeout_s: float) -> int:
        """Return the size of the body if it has arrived; otherwise wait for it in the poller.

        It may take *timeout_s*; more than *max_bytes* are not waited for.
        Raises: TimeoutError, or EOFError if the client ended it, with the number of received bytes;
          BodyPending, which must not be caught.
        """
        if not self.started_at:
            self.started_at = time.perf_counter()
            self._chunk_tracker = ChunkTracker(max_bytes) if self._length is None else None
            self._track(self._unreader.buf.getvalue())
            while self.missing_bytes and self.received_bytes < PIECE_BYTES and self.receive():
                pass
        self.is_pending = not (self.is_done or self.is_late or self.has_ended)
        if self.is_done:
            self._unreader.has_ended = True
            return self._chunk_tracker.data_bytes if self._chunk_tracker else self._length or 0
        if not self.is_pending:
            self._is_discarded = False
            self._unreader.clear()
            raise (TimeoutError if self.is_late else EOFError)(self._received_total)
        self._send_continue()
        raise BodyPending(timeout_s)

    @property
    def is_done(self) -> bool:
        """Whether all of the body has arrived, or enough to reject it."""
        return not self.missing_bytes

    @property
    def has_ended(self) -> bool:
        """Whether no more bytes will arrive: the body is complete, or the sender ended it."""
        return self._unreader.has_ended

    @property
    def received_bytes(self) -> int:
        """The number of its bytes in memory."""
        return self._unreader.received_bytes

    @property
    def missing_bytes(self) -> int:
        """The minimum of bytes that are still missing."""
        return self._chunk_tracker.missing_bytes if self._chunk_tracker else max(0, self._left)

    def receive(self) -> int:
        """Receive what the socket has; return the number of bytes."""
        data = self._unreader.receive(RECEIVE_BYTES if self._chunk_tracker else self._left)
        if data == b"":
            self._unreader.has_ended = True
        self._track(data or b"")
        return len(data or b"")

    def discard_rest(self) -> bool:
        """Discard what has arrived, without waiting; return whether that was all of the body."""
        if self._is_discarded is None:
            self._is_discarded = not self.failed and self._discard()
        return self._is_discarded

    def read(self, size: int | None = None) -> bytes:
        """Read; if the client waits for a 100, send it first."""
        self._send_continue()
        return bytes(super().read(size))

    def readline(self, size: int | None = None) -> bytes:
        """Read a line; if the client waits for a 100, send it first."""
        self._send_continue()
        return bytes(super().readline(size))

    def _track(self, data: bytes) -> None:
        self._received_total += len(data)
        if self._chunk_tracker:
            self._chunk_tracker.feed(data)
        else:
            self._left -= len(data)

    def _send_continue(self) -> None:
        expects, self._expects = self._expects, False
        if expects and not self._unreader.buf.tell():
            self._unreader.sock.sendall(CONTINUE)

    def _discard(self) -> bool:
        sock, dropped = self._unreader.sock, 0
        sock.setblocking(False)
        try:
            while data := super().read(PIECE_BYTES):
                dropped += len(data)
                if dropped > MAX_DISCARD_BYTES:
                    return False
        except (OSError, ParseException):  # not arrived yet, or malformed
            return False
        finally:
            sock.setblocking(True)
        return True


class HeadFirstRequest(Request):  # type: ignore[misc]
    """A request that starts before its body has arrived."""

    body: Any
    _expected_100_continue: bool

    def set_body_reader(self) -> None:
        """Set the body's reader; without this gunicorn would send the 100 at once."""
        super().set_body_reader()
        expects, self._expected_100_continue = self._expected_100_continue, False
        reader = self.body.reader
        length = None if isinstance(reader, ChunkedReader) else reader.length
        self.body = RequestBody(reader, self.unreader, length, expects)

    def should_close(self) -> bool:
        """Return whether the connection closes after this response; it does if body is left."""
        return bool(super().should_close()) or not self.body.discard_rest()


class Parser(RequestParser):  # type: ignore[misc]
    """Yields a request again when its body has arrived."""

    mesg_class = HeadFirstRequest
    repeat = False

    def __init__(self, cfg: Any, sock: Socket, address: Any) -> None:
        super().__init__(cfg, sock, address)
        self.unreader = Unreader(sock)

    def __next__(self) -> Any:
        if self.repeat:
            self.repeat = False
            return self.mesg
        return super().__next__()


class Connection(TConn):  # type: ignore[misc]
    """A connection, with the start, deadline and progress of its transfer."""

    sock: Socket
    initialized: bool

    def __init__(self, cfg: Any, accepted: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, Socket(accepted), client, server)
        self.started_at = self.last_transfer_at = self.timeout_s = 0.0
        self.transferred_bytes = 0
        self.future: Any = None  # of the response that is being sent

    def init(self) -> None:
        """Create the parser; a thread calls this before the first request."""
        self.sock.setblocking(True)
        if not self.initialized:
            self.initialized = True
            self.parser = Parser(self.cfg, self.sock, self.client)
