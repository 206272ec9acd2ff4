"""gunicorn's threaded worker, where a request takes a thread only once its head is there.

gunicorn gives every connection a thread for as long as it takes to send a head: 256 connections
that say nothing, or a byte now and then, would hold all 256 threads. Here the poller waits for
heads, for a bounded time; where connections or files run short, those that only wait go first.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

HEAD_S = 10.0  # a head fits the first packets; a slow phone may repeat one of them twice
MOST_HEAD_BYTES = 2**15
IDLE_S = 0.5  # after which a connection without a head may have to go
SHED = 16  # of them at once, where connections run short
FULL_S = 0.05  # pause where no file is left, and no connection that could go
REFUSAL = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE, MALFORMED = b"431 Request Header Fields Too Large", b"400 Bad Request"


def is_whole(head: bytes) -> bool:
    """Is all of a request's head there? Empty lines before it are none of it."""
    return b"\r\n\r\n" in head.lstrip(b"\r\n")


class Patient(ThreadWorker):  # type: ignore[misc]
    """Waits for heads without threads; `pending_conns` are those that wait, the oldest first."""

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; one that only waits makes room where there is none."""
        if self.nr_conns >= self.worker_connections - 1:
            self._drop_idle()
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self._drop_idle():
                time.sleep(FULL_S)
            elif error.errno not in (
                errno.EAGAIN, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE,
            ):  # fmt: skip
                raise
            return
        self.nr_conns += 1
        self._await(TConn(self.cfg, client, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Let another request of a kept connection wait for its head too."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._await(conn)

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Give a connection a thread if its head is whole; else wait for more than is there."""
        try:
            head = client.recv(MOST_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if not head:
            self._drop(conn)
        elif is_whole(head):
            self._forget(conn)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            conn.data_ready = True
            self.enqueue_req(conn)
        elif len(head) == MOST_HEAD_BYTES or b"\n\n" in head:
            refusal = REFUSAL % (MALFORMED if b"\n\n" in head else TOO_LARGE)
            with suppress(OSError):
                client.recv(MOST_HEAD_BYTES)  # closing with bytes unread would take the answer back
                client.send(refusal)
            self._drop(conn)
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(head) + 1)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Hang up on a request that began behind another one and is not whole: it would block."""
        rest = conn.parser.unreader.buf.getvalue() if conn.parser else b""
        if rest and not is_whole(rest):
            self.nr_conns -= 1
            conn.close(graceful=True)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Close what has had its time; where no connection is left, some of what only waits."""
        super().murder_pending()
        room = self.worker_connections - self.nr_conns
        for _ in range(SHED if room <= 0 else 0):
            self._drop_idle()

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _await(self, conn: Any) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_S
        self.pending_conns.append(conn)
        self.poller.register(
            conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn)
        )

    def _forget(self, conn: Any) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _drop_idle(self) -> bool:
        """Close what has waited longest, for a head or for another request; is there any?"""
        waited_since = time.monotonic() + HEAD_S - IDLE_S
        if self.pending_conns and self.pending_conns[0].timeout < waited_since:
            self._drop(self.pending_conns[0])
        elif self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()
        else:
            return False
        return True
