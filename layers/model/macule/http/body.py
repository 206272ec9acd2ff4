"""A request's body: read once, bounded in bytes and in time."""

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

CHUNK_BYTES = 2**18  # each read gives the GIL away, and may wait 5 ms for it
# After an answer the rest of a body is read and dropped, or the caller's client sees its connection
# break instead of the answer. Bounded: beyond this it does break. `macule.server` does it without a
# thread, and for longer.
MAX_DISCARD_BYTES = 32 * 2**20
DISCARD_TIMEOUT_S = 1.0
CHECK_INTERVAL_S = 0.1  # at the clock, while bodies are read
MIN_BYTES_PER_S = 2**15  # a photo of 3 MB within 100 s: a phone at the edge of its network


class Body:
    """A request's bytes, read once.

    Args:
      length: None where the sender gave none.
      abort_read: ends what *stream* waits for; without it a slow sender is waited for as long as the
        server's own time-outs say.
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
        self._s_per_byte = 1 / MIN_BYTES_PER_S  # more, for each byte that came

    def chunks(self, limit_bytes: int, timeout_s: float = math.inf) -> Iterator[bytes]:
        """Yield the body in pieces, never more than *limit_bytes* in all.

        It may take *timeout_s*, and a second more for each LEAST_BYTES_PER_S that came.
        Raises: BodyTooLarge, before reading where the length is known; BadRequest if cut short;
          SlowBody.
        """
        if self.length is not None and self.length > limit_bytes:
            raise _too_large(limit_bytes, self.length)
        with self._with_deadline(timeout_s):
            while chunk := self._next():
                if self._read > limit_bytes:
                    raise _too_large(limit_bytes, self._read)
                yield chunk
        if self._is_late:
            raise _too_slow(self._read)
        if self.length is not None and self._read < self.length:
            raise self._cut_short()

    @property
    def read_bytes(self) -> int:
        """The bytes that came so far, whatever the sender says of them."""
        return self._read

    def wait_for_arrival(self, limit_bytes: int, timeout_s: float = math.inf) -> None:
        """Have the server receive the body before anything is held for it, if it can.

        Such a server answers the request from its beginning again when the body is there.
        Raises: BodyTooLarge, BadRequest, SlowBody, as `chunks`; what only the server catches.
        """
        if self.length is not None and self.length > limit_bytes:
            raise _too_large(limit_bytes, self.length)
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
        if size > limit_bytes:
            raise _too_large(limit_bytes, size)

    def _record_arrival(self, count: int) -> None:
        self.started_at, self._read = time.perf_counter(), count
        self.arrival_s = self.started_at - self._stream.started_at  # type: ignore[attr-defined]

    @property
    def received_bytes(self) -> int:
        """The bytes that lie in memory, unread."""
        return getattr(self._stream, "received_bytes", 0)

    def compute_once(self, name: object, compute: Callable[[], T]) -> T:
        """Return what *compute* finds; where the request is begun again, what it found before."""
        computed: dict[object, T] = getattr(self._stream, "computed", {})
        if name not in computed:
            computed[name] = compute()
        return computed[name]

    @property
    def has_unread(self) -> bool:
        """Is there something unread that the server does not deal with itself?"""
        return not self._ended and not hasattr(self._stream, "wait_for_arrival")

    def discard(self) -> None:
        """Read and drop what is left, within bounds; then hang up."""
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
        want = CHUNK_BYTES if self.length is None else min(CHUNK_BYTES, self.length - self._read)
        asked = time.perf_counter()
        self.started_at = self.started_at or asked
        try:
            chunk = self._stream.read(want) if want else b""
        except Exception as error:  # each server has its own for a sender who is gone or malformed
            self._ended = True
            if self._is_late:
                return b""
            raise BadRequest("The body is malformed, or was not sent to its end.") from error
        self.read_s += time.perf_counter() - asked
        self._read += len(chunk)
        self._ended = not chunk
        return chunk

    def _cut_short(self) -> BadRequest:
        of = "" if self.length is None else f" of {self.length}"
        return BadRequest(f"The body ended after {self._read}{of} bytes.")

    @contextmanager
    def _with_deadline(self, timeout_s: float) -> Iterator[None]:
        """Hang up on a sender who is slower than allowed: a read that blocks sees no clock."""
        abort_read = self._abort_read
        if self._ended or abort_read is None or timeout_s == math.inf:
            yield
            return
        with _deadline_watcher().watch(self, time.monotonic() + timeout_s):
            yield

    def abort_if_late(self, end: float) -> None:
        """Hang up if *end* has passed, and a second more for each LEAST_BYTES_PER_S that came."""
        late = end + self._read * self._s_per_byte <= time.monotonic()
        if late and not self._is_late and self._abort_read:
            self._is_late = True
            self._abort_read()


class DeadlineWatcher:
    """Looks at the clock for all who read a body: starting a thread for each takes 1 ms of 5."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._deadlines: dict[Body, float] = {}
        self._has_bodies = Event()
        Thread(target=self._run, daemon=True).start()

    @contextmanager
    def watch(self, body: Body, end: float) -> Iterator[None]:
        """Have *body* hurry while it is read."""
        with self._lock:
            self._deadlines[body] = end
            self._has_bodies.set()
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(body, None)

    def _run(self) -> None:
        while self._has_bodies.wait():
            with self._lock:
                for body, end in self._deadlines.items():
                    body.abort_if_late(end)
                if not self._deadlines:
                    self._has_bodies.clear()
            time.sleep(CHECK_INTERVAL_S)


@functools.cache
def _deadline_watcher() -> DeadlineWatcher:
    return DeadlineWatcher()


def _too_slow(received_bytes: int) -> SlowBody:
    return SlowBody(
        f"Only {received_bytes:,} bytes came in time. Send the photo over a faster connection, "
        "or a smaller copy.",
        received_bytes=received_bytes,
    )


def _too_large(limit_bytes: int, found_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request has {found_bytes:,} bytes or more; at most {limit_bytes:,} are read. Send a "
        "smaller copy of the image.",
        limit_bytes=limit_bytes,
    )
