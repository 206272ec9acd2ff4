"""Request bodies: read once, with limits of bytes and time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import BinaryIO, TypeVar

from macule.errors import BadRequest, BodyTooLarge, SlowBody

T = TypeVar("T")

CHUNK_BYTES = 2**18  # each read releases the GIL and may wait 5 ms to get it back
# After a response, the rest of the body is read and discarded: otherwise the client would see a
# broken connection instead of the response. Beyond these limits the connection does break.
# `macule.server` discards without a thread, and for longer.
MAX_DISCARD_BYTES = 32 * 2**20
DISCARD_TIMEOUT_S = 1.0
CHECK_INTERVAL_S = 0.1  # between checks of the deadlines
MIN_BYTES_PER_S = 2**15  # a photo of 3 MB within 100 s: a phone on a weak network


class Body:
    """A request's bytes, read once.

    Args:
      length: None if the sender gave none.
      abort_read: interrupts a blocked read of *stream*; without it only the server's own time-outs
        apply to slow senders.
    """

    def __init__(
        self, stream: BinaryIO, length: int | None, abort_read: Callable[[], None] | None = None
    ) -> None:
        self._stream = stream
        self.length = length
        self._abort_read = abort_read
        self._read = 0
        self.started_at: float | None = None  # the first read, by time.perf_counter
        self.arrival_s = self.read_s = 0.0
        self._ended = length == 0
        self._is_late = False
        self._s_per_byte = 1 / MIN_BYTES_PER_S  # more time for each received byte

    def chunks(self, limit_bytes: int, timeout_s: float = math.inf) -> Iterator[bytes]:
        """Yield the body in pieces, at most *limit_bytes* in total.

        It may take *timeout_s*, plus a second for each MIN_BYTES_PER_S received.
        Raises: BodyTooLarge, before reading if the length is known; BadRequest if it is incomplete;
          SlowBody.
        """
        _check_size(self.length or 0, limit_bytes)
        with self._with_deadline(timeout_s):
            while chunk := self._next():
                _check_size(self._read, limit_bytes)
                yield chunk
        if self._is_late:
            raise _too_slow(self._read)
        if self.length is not None and self._read < self.length:
            raise self._cut_short()

    @property
    def read_bytes(self) -> int:
        """The bytes received so far, regardless of the declared length."""
        return self._read

    def wait_for_arrival(self, limit_bytes: int, timeout_s: float = math.inf) -> None:
        """Let the server receive the body before memory is reserved for it, if it can.

        Such a server interrupts the request and runs it again when the body has arrived.
        Raises: BodyTooLarge, BadRequest, SlowBody, as `chunks`; BodyPending, for the server only.
        """
        _check_size(self.length or 0, limit_bytes)
        wait = getattr(self._stream, "wait_for_arrival", None)
        if wait is None or self._ended:
            return
        try:
            size = wait(limit_bytes, timeout_s)
        except TimeoutError as error:
            self._record_arrival(*error.args)
            raise _too_slow(self._read) from None
        except EOFError as error:
            self._record_arrival(*error.args)
            raise self._cut_short() from None
        self.arrival_s = time.perf_counter() - self._stream.started_at  # type: ignore[attr-defined]
        _check_size(size, limit_bytes)

    def _record_arrival(self, count: int) -> None:
        self.started_at, self._read = time.perf_counter(), count
        self.arrival_s = self.started_at - self._stream.started_at  # type: ignore[attr-defined]

    @property
    def received_bytes(self) -> int:
        """The received bytes that are in memory and not read yet."""
        return getattr(self._stream, "received_bytes", 0)

    def compute_once(self, name: object, compute: Callable[[], T]) -> T:
        """Return the result of *compute*; the same one if the server runs the request again."""
        computed: dict[object, T] = getattr(self._stream, "computed", {})
        if name not in computed:
            computed[name] = compute()
        return computed[name]

    @property
    def has_unread(self) -> bool:
        """Whether there are unread bytes that the server does not discard itself."""
        return not self._ended and not hasattr(self._stream, "wait_for_arrival")

    def discard(self) -> None:
        """Read and discard the rest, within limits; abort what is left."""
        self._s_per_byte = 0.0
        try:
            with self._with_deadline(DISCARD_TIMEOUT_S):
                while self._read < MAX_DISCARD_BYTES and self._next():
                    pass
        except BadRequest:
            pass
        if not self._ended and self._abort_read:
            self._abort_read()
        self._ended = True

    def _next(self) -> bytes:
        if self._ended:
            return b""
        size = CHUNK_BYTES if self.length is None else min(CHUNK_BYTES, self.length - self._read)
        read_at = time.perf_counter()
        self.started_at = self.started_at or read_at
        try:
            chunk = self._stream.read(size) if size else b""
        except Exception as error:  # each server has its own for disconnects and malformed bodies
            self._ended = True
            if self._is_late:
                return b""
            raise BadRequest("The body is malformed or incomplete.") from error
        self.read_s += time.perf_counter() - read_at
        self._read += len(chunk)
        self._ended = not chunk
        return chunk

    def _cut_short(self) -> BadRequest:
        of = "" if self.length is None else f" of {self.length}"
        return BadRequest(f"The body ended after {self._read}{of} bytes.")

    @contextmanager
    def _with_deadline(self, timeout_s: float) -> Iterator[None]:
        """Abort a blocked read of a slow sender: the reading thread cannot check the clock."""
        abort_read = self._abort_read
        if self._ended or abort_read is None or timeout_s == math.inf:
            yield
            return
        with _deadline_watcher().watch(self, time.monotonic() + timeout_s):
            yield

    def abort_if_late(self, deadline: float) -> None:
        """Abort the read after *deadline* plus a second for each MIN_BYTES_PER_S received."""
        is_late = deadline + self._read * self._s_per_byte <= time.monotonic()
        if is_late and not self._is_late and self._abort_read:
            self._is_late = True
            self._abort_read()


class DeadlineWatcher:
    """Checks the deadlines of all bodies in one thread: a thread for each would take 1 ms of 5."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._deadlines: dict[Body, float] = {}
        self._has_bodies = Event()
        Thread(target=self._run, daemon=True).start()

    @contextmanager
    def watch(self, body: Body, deadline: float) -> Iterator[None]:
        """Check the deadline of *body* while it is read."""
        with self._lock:
            self._deadlines[body] = deadline
            self._has_bodies.set()
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(body, None)

    def _run(self) -> None:
        while self._has_bodies.wait():
            with self._lock:
                for body, deadline in self._deadlines.items():
                    body.abort_if_late(deadline)
                if not self._deadlines:
                    self._has_bodies.clear()
            time.sleep(CHECK_INTERVAL_S)


@functools.cache
def _deadline_watcher() -> DeadlineWatcher:
    return DeadlineWatcher()


def _too_slow(received_bytes: int) -> SlowBody:
    return SlowBody(
        f"Only {received_bytes:,} bytes arrived in time. Send the photo over a faster connection, "
        "or a smaller copy.",
        received_bytes=received_bytes,
    )


def _check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise BodyTooLarge(
            f"The request has at least {size:,} bytes; the limit is {limit_bytes:,}. Send a "
            "smaller copy of the image.",
            limit_bytes=limit_bytes,
        )
