"""Transfers of bodies and responses without waiting threads, within a limit of memory.

Above the limit, clients with data wait until others are answered, and stalled clients are
disconnected, the slowest first.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from macule.server.connection import WAKE_BYTES, Connection

DEFAULT_MAX_BYTES = 2**22  # until the configuration sets it from the memory limit
SEND_TIMEOUT_S = 10.0  # for a response, plus a second for each MIN_BYTES_PER_S sent
MIN_BYTES_PER_S = 2**15
STALLED_S = 0.5  # a client without progress for so long may be disconnected if memory is short
CHECK_INTERVAL_S = 0.1  # between checks of all deadlines


class Transfers:
    """The bodies and responses that a worker's poller receives and sends.

    Args:
      on_received: called with a connection when its body is complete, late or ended by the client.
      on_sent: called when the response is sent.
      on_gone: called when the client has disconnected, or reads the response too slowly.
    """

    def __init__(
        self,
        on_received: Callable[[Connection], None],
        on_sent: Callable[[Connection], None],
        on_gone: Callable[[Connection], None],
    ) -> None:
        self.poller: Any = None
        self.max_bytes = DEFAULT_MAX_BYTES
        self._on_received, self._on_sent, self._on_gone = on_received, on_sent, on_gone
        # dicts as ordered sets: the oldest transfer is first
        self._receiving = dict[Connection, None]()
        self._paused = dict[Connection, float]()  # with unreceived data; since when
        self._prioritized: Connection | None = None  # received although memory is short
        self._sending = dict[Connection, None]()
        self._held = dict[Connection, int]()  # bytes, until the request is answered
        self._held_bytes = 0
        self._checked_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the transfers take more memory than the limit."""
        return self._held_bytes > self.max_bytes

    def receive(self, conn: Connection, timeout_s: float) -> None:
        """Receive the rest of a body."""
        conn.timeout_s = timeout_s
        self._start(conn, self._body(conn).received_bytes)
        self._watch(conn)

    def send(self, conn: Connection) -> None:
        """Send the rest of a response."""
        conn.timeout_s = SEND_TIMEOUT_S
        self._start(conn, conn.sock.unsent_bytes)
        self._sending[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._on_writable, conn))

    def release(self, conn: Connection) -> None:
        """Release the memory counted for a connection: its request is answered."""
        self._held_bytes -= self._held.pop(conn, 0)

    def check(self) -> None:
        """End late transfers; if memory is short, end stalled ones, else resume paused ones."""
        now = time.monotonic()
        if now > self._checked_at + CHECK_INTERVAL_S:
            self._checked_at = now
            active = (*self._receiving, *self._sending)
            for conn in [conn for conn in active if self._deadline(conn) <= now]:
                self._abort(conn)
        if self.is_full:
            for conn in self._stalled(now):
                if self.is_full and self._held[conn]:
                    self._abort(conn)
        if self.is_full:
            self._prioritize_one()
        else:
            for conn in list(self._paused):
                self._resume(conn)

    def disconnect_slowest(self, count: int) -> None:
        """End up to *count* stalled transfers, because connections are short."""
        for conn in self._stalled(time.monotonic())[:count]:
            self._abort(conn)

    def _start(self, conn: Connection, held_bytes: int) -> None:
        conn.sock.setblocking(False)
        conn.started_at = conn.last_transfer_at = time.monotonic()
        conn.transferred_bytes = 0
        self.release(conn)
        self._hold(conn, held_bytes)

    def _hold(self, conn: Connection, more_bytes: int) -> None:
        self._held[conn] = self._held.get(conn, 0) + more_bytes
        self._held_bytes += more_bytes

    def _watch(self, conn: Connection) -> None:
        self._receiving[conn] = None
        self._set_wake_threshold(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))

    def _set_wake_threshold(self, conn: Connection) -> None:
        """Let the poller wake up only for WAKE_BYTES or the rest of the body."""
        threshold = min(self._body(conn).missing_bytes, WAKE_BYTES)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, max(1, threshold))

    def _on_readable(self, conn: Connection, _: object) -> None:
        conn.last_transfer_at = time.monotonic()
        if self.is_full and conn is not self._prioritized:
            self._unregister(conn)
            self._paused[conn] = conn.last_transfer_at
            return
        body = self._body(conn)
        count = body.receive()
        conn.transferred_bytes += count
        self._hold(conn, count)
        if body.is_done or body.has_ended:
            self._finish_receiving(conn)
        else:
            self._set_wake_threshold(conn)

    def _on_writable(self, conn: Connection, _: object) -> None:
        try:
            count = conn.sock.flush()
        except OSError:
            self._abort(conn)
            return
        conn.last_transfer_at = time.monotonic()
        conn.transferred_bytes += count
        self._hold(conn, -count)
        if not conn.sock.unsent:
            self._unregister(conn)
            self._on_sent(conn)

    def _deadline(self, conn: Connection) -> float:
        return conn.started_at + conn.timeout_s + conn.transferred_bytes / MIN_BYTES_PER_S

    def _stalled(self, now: float) -> list[Connection]:
        """Return the connections without progress for STALLED_S, the slowest first."""
        active = (*self._receiving, *self._sending)
        stalled = [conn for conn in active if conn.last_transfer_at <= now - STALLED_S]
        return sorted(stalled, key=lambda conn: conn.transferred_bytes / (now - conn.started_at))

    def _prioritize_one(self) -> None:
        """Resume one paused body, unless a response will free memory."""
        moving = self._receiving.keys() | self._sending.keys() | self._paused.keys()
        is_answering = self._held.keys() - moving
        if self._paused and not is_answering and not self._prioritized:
            self._prioritized = next(iter(self._paused))
            self._resume(self._prioritized)

    def _resume(self, conn: Connection) -> None:
        conn.last_transfer_at = time.monotonic()
        conn.started_at += conn.last_transfer_at - self._paused.pop(conn)
        self._watch(conn)

    def _abort(self, conn: Connection) -> None:
        """End a transfer: the request of a late body is answered, a slow reader is disconnected."""
        if conn in self._receiving:
            body = self._body(conn)
            body.receive()  # bytes below the wake threshold
            body.is_late = not body.is_done
            self._finish_receiving(conn)
        else:
            self._unregister(conn)
            self.release(conn)
            self._on_gone(conn)

    def _finish_receiving(self, conn: Connection) -> None:
        self._unregister(conn)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if self._body(conn).is_late:
            self.release(conn)
        conn.parser.repeat = True
        self._on_received(conn)

    def _unregister(self, conn: Connection) -> None:
        self._receiving.pop(conn, None)
        self._sending.pop(conn, None)
        if conn is self._prioritized:
            self._prioritized = None
        self.poller.unregister(conn.sock)

    def _body(self, conn: Connection) -> Any:
        return conn.parser.mesg.body
