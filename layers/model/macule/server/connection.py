"""One connection of `worker.PollingWorker`: no thread waits for its client, to send or to receive.

What a client sends slowly is received by the worker's poller, what it reads slowly is sent by it; a
thread has a request only when all of it is there. A body that nothing reads is not waited for: its
answer says `Connection: close`, and the poller drops what still comes.
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

RECEIVE_BYTES = 2**18  # each call gives the GIL away, and may wait 5 ms for it
PIECE_BYTES = 2**16
WAKE_BYTES = 2**15  # the poller is woken for so much, or for the rest
MAX_DISCARD_BYTES = 2**16  # of an unread body, if they are there: then the connection stays
UNSENT_BYTES = 2**16  # that the kernel holds for a client that does not read
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyPending(BaseException):
    """Ends a request, before anything is answered, that is to begin again when its body is there.

    It is no Exception, so that what an application catches does not catch this.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self.timeout_s = timeout_s


class Socket(socket.socket):
    """A client's socket; what the client does not take at once is kept in `unsent`."""

    def __init__(self, accepted: socket.socket) -> None:
        about = accepted.family, accepted.type, accepted.proto
        super().__init__(*about, fileno=accepted.detach())
        self.unsent = deque[memoryview]()
        with suppress(OSError):  # a socket of another family, or no Linux
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send what the client takes, and keep the rest."""
        self.unsent.append(memoryview(data))
        self.flush()

    def flush(self) -> int:
        """Send what the client takes; return how many bytes that is."""
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
        """The bytes that the client has not taken yet."""
        return sum(map(len, self.unsent))


class Unreader(SocketUnreader):  # type: ignore[misc]
    """Gives gunicorn's parser what was received before, and then what the socket has."""

    def __init__(self, sock: Socket) -> None:
        super().__init__(sock)
        self.received_bytes = 0
        self.has_ended = False  # nothing more is read from the socket
        self._pieces = deque[bytearray]()

    def receive(self, max_bytes: int) -> bytes | None:
        """Take what the socket has, and return it; None: nothing now; empty: the client's end."""
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
        """Return the next bytes, more than is usual where the parser can take them."""
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
        """Drop what was received and not read."""
        self._pieces.clear()
        self.received_bytes = 0

    def unread_bytes(self) -> bytes:
        """Return what was received behind the last request, and keep it for the next one."""
        self.has_ended = False
        while self._pieces:
            self.buf.seek(0, 2)
            self.buf.write(self.chunk())
        return bytes(self.buf.getvalue())


class RequestBody(Body):  # type: ignore[misc]
    """A request's body as an application reads it; or has the poller receive it first (`arrive`).

    Args:
      length: None for a body in chunks.
      expects: the client waits for a 100 before it sends.

    `computed` are the application's, kept while the request waits for its body.
    """

    def __init__(self, reader: Any, unreader: Unreader, length: int | None, expects: bool) -> None:
        super().__init__(reader)
        self.computed: dict[Any, Any] = {}
        self.started_at = 0.0
        self.is_late = False  # it did not come in time
        self.is_pending = False
        self._unreader, self._length, self._expects = unreader, length, expects
        self._chunk_tracker: ChunkTracker | None = None
        self._left, self._received_total = length or 0, 0
        self._is_discarded: bool | None = None

    def wait_for_arrival(self, max_bytes: int, timeout_s: float) -> int:
        """Wait in the poller until all of the body is there; return how many bytes it has.

        It may take *timeout_s*; more than *max_bytes* are not waited for.
        Raises: TimeoutError, or EOFError if the client ended it, with the bytes that came;
          BodyMissing, which must pass.
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
        """Is all of the body there, or enough of it to refuse it?"""
        return not self.missing_bytes

    @property
    def has_ended(self) -> bool:
        """Is nothing more to come: all of it is there, or its sender has ended it?"""
        return self._unreader.has_ended

    @property
    def received_bytes(self) -> int:
        """How many bytes of it lie in memory."""
        return self._unreader.received_bytes

    @property
    def missing_bytes(self) -> int:
        """How many bytes are still to come, at least."""
        return self._chunk_tracker.missing_bytes if self._chunk_tracker else max(0, self._left)

    def receive(self) -> int:
        """Take what the socket has; return how many bytes that is."""
        data = self._unreader.receive(RECEIVE_BYTES if self._chunk_tracker else self._left)
        if data == b"":
            self._unreader.has_ended = True
        self._track(data or b"")
        return len(data or b"")

    def discard_rest(self) -> bool:
        """Drop what is there of the rest, without waiting: was that all of the body?"""
        if self._is_discarded is None:
            self._is_discarded = not self.failed and self._discard()
        return self._is_discarded

    def read(self, size: int | None = None) -> bytes:
        """Read; whoever waits to be asked for the body is asked now."""
        self._send_continue()
        return bytes(super().read(size))

    def readline(self, size: int | None = None) -> bytes:
        """Read a line, as `read` does."""
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
        except (OSError, ParseException):  # not there yet, or malformed
            return False
        finally:
            sock.setblocking(True)
        return True


class HeadFirstRequest(Request):  # type: ignore[misc]
    """A request that needs no more of its body than the application reads of it."""

    body: Any
    _expected_100_continue: bool

    def set_body_reader(self) -> None:
        """Set what reads the body; gunicorn itself would ask for it before the application does."""
        super().set_body_reader()
        expects, self._expected_100_continue = self._expected_100_continue, False
        reader = self.body.reader
        length = None if isinstance(reader, ChunkedReader) else reader.length
        self.body = RequestBody(reader, self.unreader, length, expects)

    def should_close(self) -> bool:
        """Say that the connection ends with this answer; where it begins, the body must be over."""
        return bool(super().should_close()) or not self.body.discard_rest()


class Parser(RequestParser):  # type: ignore[misc]
    """Yields a request again whose body has come meanwhile."""

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
    """A connection, and how many bytes it moves since when."""

    sock: Socket
    initialized: bool

    def __init__(self, cfg: Any, accepted: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, Socket(accepted), client, server)
        self.started_at = self.last_transfer_at = self.timeout_s = 0.0
        self.transferred_bytes = 0
        self.future: Any = None  # of the answer that is being sent

    def init(self) -> None:
        """Make what parses its requests; a thread calls this before the first one."""
        self.sock.setblocking(True)
        if not self.initialized:
            self.initialized = True
            self.parser = Parser(self.cfg, self.sock, self.client)
