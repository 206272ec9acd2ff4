"""gunicorn's threaded worker, in which only the poller waits for slow clients.

gunicorn gives every connection a thread while its head arrives: 256 connections that send nothing,
or a byte now and then, would occupy all 256 threads. After the last response its main thread waits
until the client closes too: three clients that do not would block all others for 6 s. Here the
poller waits for heads and closes, for a limited time; when connections or files run out, idle ones
are closed first. The poller also waits for bodies and responses (`transfers`).
"""

from __future__ import annotations

import errno
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from macule.server.connection import BodyPending, Connection
from macule.server.transfers import Transfers

HEAD_TIMEOUT_S = 10.0  # a head fits in the first packets; a slow phone may resend one of them twice
MAX_HEAD_BYTES = 2**15
# After the last response, data from the client is discarded until it closes: many clients read a
# response only after they have sent all of their request. Limits: without data, and in total.
LINGER_TIMEOUT_S, MAX_LINGER_S = 5.0, 30.0
MAX_LINGER_BYTES = 2**27
LINGER_WAKE_BYTES = 2**15
CHUNK_BYTES = 2**16
ACCEPT_BATCH = 64  # connections accepted at once; bounds the delay of other events
# After this time, a connection without a head or after its last response counts as idle.
MIN_IDLE_S = 0.5
MAX_SHED = 16  # idle connections closed at once, when connections or files run out
FULL_PAUSE_S = 0.05  # pause when connections have run out and none can be closed
NO_FILE_ERRNOS = (errno.EMFILE, errno.ENFILE)
ERROR_RESPONSE = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE, MALFORMED = b"431 Request Header Fields Too Large", b"400 Bad Request"


def is_complete_head(head: bytes) -> bool:
    """Return whether *head* is a complete request head, without leading empty lines."""
    return b"\r\n\r\n" in head.lstrip(b"\r\n")


class PollingWorker(ThreadWorker):  # type: ignore[misc]
    """A threaded worker that waits for heads and closes in its poller.

    `pending_conns` wait for a head, `keepalived_conns` for another request, `lingering_conns` for
    the client to close; the oldest is first. A callback of the poller closes only its own
    connection: another one may be in the same batch of events.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lingering_conns = deque[Any]()
        self.is_out_of_files = False
        self.transfers = Transfers(self.enqueue_req, self._finish_sent, self._close)

    def run(self) -> None:
        self.transfers.poller = self.poller
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Accept waiting connections, unless the listener was closed in this batch of events."""
        for _ in range(ACCEPT_BATCH):
            if not self.alive or self.nr_conns >= self.worker_connections:
                return
            if not self._accept_one(listener):
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept a connection; return whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:
            self.is_out_of_files = error.errno in NO_FILE_ERRNOS
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, *NO_FILE_ERRNOS):
                raise
            return False
        self.nr_conns += 1
        conn = Connection(self.cfg, client, address, listener.getsockname())
        self._wait(conn, self.pending_conns, HEAD_TIMEOUT_S, self.on_pending_socket_readable)
        return True

    def on_client_socket_readable(self, conn: Any, _: socket.socket) -> None:
        """Wait for the head of the next request on a kept connection."""
        self._unregister(conn, self.keepalived_conns)
        self._wait(conn, self.pending_conns, HEAD_TIMEOUT_S, self.on_pending_socket_readable)

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Give a connection a thread if its head is complete; otherwise wait for more bytes."""
        try:
            head = client.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if not head:
            self._drop(conn, self.pending_conns)
        elif is_complete_head(head):
            self._unregister(conn, self.pending_conns)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            conn.data_ready = True
            self.enqueue_req(conn)
        elif len(head) == MAX_HEAD_BYTES or b"\n\n" in head:
            self._unregister(conn, self.pending_conns)
            with suppress(OSError):
                client.send(ERROR_RESPONSE % (MALFORMED if b"\n\n" in head else TOO_LARGE))
            self._linger(conn)
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(head) + 1)

    def on_lingering_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Discard what a client sends after its last response; close when it ends."""
        try:
            count = len(client.recv(CHUNK_BYTES))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        conn.transferred_bytes += count
        if not count or conn.transferred_bytes > MAX_LINGER_BYTES:
            self._drop(conn, self.lingering_conns)
        else:
            self.lingering_conns.remove(conn)
            self.lingering_conns.append(conn)
            conn.timeout = min(time.monotonic() + LINGER_TIMEOUT_S, conn.started_at + MAX_LINGER_S)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Wait for the request's body, or for the client to read all of its response."""
        error = None if fs.cancelled() else fs.exception()
        if isinstance(error, BodyPending):
            self.transfers.receive(conn, error.timeout_s)
            return
        self.transfers.release(conn)
        if conn.sock.unsent:
            conn.future = fs
            self.transfers.send(conn)
        else:
            self._finish(conn, fs)

    def _finish_sent(self, conn: Any) -> None:
        self.transfers.release(conn)
        fs, conn.future = conn.future, None
        self._finish(conn, fs)

    def _finish(self, conn: Any, fs: Any) -> None:
        """Keep the connection alive if possible; otherwise close it gracefully.

        A connection with an incomplete next request is closed too: reading it would block.
        """
        keep_alive = not fs.cancelled() and not fs.exception() and fs.result()
        rest = conn.parser.unreader.unread_bytes() if keep_alive else b""
        if not keep_alive or (rest and not is_complete_head(rest)):
            self._linger(conn)
        else:
            super().finish_request(conn, fs)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; for a shorter time if connections or memory have run out."""
        is_full = not self._accepting or self.transfers.is_full
        super().wait_for_and_dispatch_events(min(timeout, FULL_PAUSE_S) if is_full else timeout)

    def murder_pending(self) -> None:
        """Close connections that timed out, and idle ones if connections or files have run out."""
        super().murder_pending()
        self.transfers.check()
        while self.lingering_conns and self.lingering_conns[0].timeout <= time.monotonic():
            self._drop(self.lingering_conns[0], self.lingering_conns)
        if self.is_out_of_files or self.nr_conns >= self.worker_connections:
            dropped = [self._drop_idle() for _ in range(MAX_SHED)]
            self.transfers.disconnect_slowest(dropped.count(False))
            if self.is_out_of_files and not any(dropped):
                time.sleep(FULL_PAUSE_S)
            self.is_out_of_files = False

    def _linger(self, conn: Any) -> None:
        """Shut down sending; close when the client has closed too.

        An immediate close, with bytes unread or in transit, would discard the response (RST).
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone
            self._close(conn)
            return
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LINGER_WAKE_BYTES)
        conn.started_at, conn.transferred_bytes = time.monotonic(), 0
        self._wait(conn, self.lingering_conns, LINGER_TIMEOUT_S, self.on_lingering_socket_readable)

    def _wait(
        self, conn: Any, conns: deque[Any], timeout_s: float, on_readable: Callable[..., None]
    ) -> None:
        """Let the poller wait for data on a connection."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + timeout_s
        conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(on_readable, conn))

    def _unregister(self, conn: Any, conns: deque[Any]) -> None:
        self.poller.unregister(conn.sock)
        conns.remove(conn)

    def _drop(self, conn: Any, conns: deque[Any]) -> None:
        self._unregister(conn, conns)
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _drop_idle(self) -> bool:
        """Close an idle connection: lingering, then pending, then kept ones; return if one was."""
        now = time.monotonic()
        for conns, timeout_s in (
            (self.lingering_conns, LINGER_TIMEOUT_S - MIN_IDLE_S),
            (self.pending_conns, HEAD_TIMEOUT_S - MIN_IDLE_S),
            (self.keepalived_conns, math.inf),
        ):
            if conns and conns[0].timeout < now + timeout_s:
                self._drop(conns[0], conns)
                return True
        return False
