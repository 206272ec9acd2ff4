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
      hang_up: ends what *stream* waits for; without it a slow sender is waited for as long as the
        server's own time-outs say.
    """

    def __init__(
        self, stream: BinaryIO, length: int | None, hang_up: Callable[[], None] | None = None
    ) -> None:
        self._stream = stream
        self.length = length
        self._hang_up = hang_up
        self._read = 0
        self.began: float | None = None  # the first read, by time.perf_counter
        self.arrival_s = self.read_s = 0.0
        self._ended = length == 0
        self._late = False
        self._patience_s = 1 / MIN_BYTES_PER_S  # more, for each byte that came

    def chunks(self, limit_bytes: int, timeout_s: float = math.inf) -> Iterator[bytes]:
        """Yield the body in pieces, never more than *limit_bytes* in all.

        It may take *timeout_s*, and a second more for each LEAST_BYTES_PER_S that came.
        Raises: BodyTooLarge, before reading where the length is known; BadRequest if cut short;
          SlowBody.
        """
        if self.length is not None and self.length > limit_bytes:
            raise _too_large(limit_bytes, self.length)
        with self._watched(timeout_s):
            while chunk := self._next():
                if self._read > limit_bytes:
                    raise _too_large(limit_bytes, self._read)
                yield chunk
        if self._late:
            raise _too_slow(self._read)
        if self.length is not None and self._read < self.length:
            raise self._cut_short()

    @property
    def read_bytes(self) -> int:
        """The bytes that came so far, whatever the sender says of them."""
        return self._read

    def expect(self, limit_bytes: int, timeout_s: float = math.inf) -> None:
        """Have the server receive the body before anything is held for it, if it can.

        Such a server answers the request from its beginning again when the body is there.
        Raises: BodyTooLarge, BadRequest, SlowBody, as `chunks`; what only the server catches.
        """
        if self.length is not None and self.length > limit_bytes:
            raise _too_large(limit_bytes, self.length)
        arrive = getattr(self._stream, "arrive", None)
        if arrive is None or self._ended:
            return
        try:
            size = arrive(limit_bytes, timeout_s)
        except TimeoutError as error:
            self._note_arrival(*error.args)
            raise _too_slow(self._read) from None
        except EOFError as error:
            self._note_arrival(*error.args)
            raise self._cut_short() from None
        self.arrival_s = time.perf_counter() - self._stream.began  # type: ignore[attr-defined]
        if size > limit_bytes:
            raise _too_large(limit_bytes, size)

    def _note_arrival(self, count: int) -> None:
        self.began, self._read = time.perf_counter(), count
        self.arrival_s = self.began - self._stream.began  # type: ignore[attr-defined]

    @property
    def received_bytes(self) -> int:
        """The bytes that lie in memory, unread."""
        return getattr(self._stream, "received_bytes", 0)

    def once(self, name: object, find: Callable[[], T]) -> T:
        """Return what *find* finds; where the request is begun again, what it found before."""
        notes: dict[object, T] = getattr(self._stream, "notes", {})
        if name not in notes:
            notes[name] = find()
        return notes[name]

    @property
    def left(self) -> bool:
        """Is there something unread that the server does not deal with itself?"""
        return not self._ended and not hasattr(self._stream, "arrive")

    def drop(self) -> None:
        """Read and drop what is left, within bounds; then hang up."""
        self._patience_s = 0.0
        try:
            with self._watched(DISCARD_TIMEOUT_S):
                while self._read < MAX_DISCARD_BYTES and self._next():
                    pass
        except BadRequest:
            pass
        if not self._ended and self._hang_up:
            self._hang_up()
        self._ended = True

    def _next(self) -> bytes:
        if self._ended:
            return b""
        want = CHUNK_BYTES if self.length is None else min(CHUNK_BYTES, self.length - self._read)
        asked = time.perf_counter()
        self.began = self.began or asked
        try:
            chunk = self._stream.read(want) if want else b""
        except Exception as error:  # each server has its own for a sender who is gone or malformed
            self._ended = True
            if self._late:
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
    def _watched(self, timeout_s: float) -> Iterator[None]:
        """Hang up on a sender who is slower than allowed: a read that blocks sees no clock."""
        hang_up = self._hang_up
        if self._ended or hang_up is None or timeout_s == math.inf:
            yield
            return
        with _deadline_watcher().over(self, time.monotonic() + timeout_s):
            yield

    def hurry(self, end: float) -> None:
        """Hang up if *end* has passed, and a second more for each LEAST_BYTES_PER_S that came."""
        late = end + self._read * self._patience_s <= time.monotonic()
        if late and not self._late and self._hang_up:
            self._late = True
            self._hang_up()


class DeadlineWatcher:
    """Looks at the clock for all who read a body: starting a thread for each takes 1 ms of 5."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ends: dict[Body, float] = {}
        self._some = Event()
        Thread(target=self._run, daemon=True).start()

    @contextmanager
    def over(self, body: Body, end: float) -> Iterator[None]:
        """Have *body* hurry while it is read."""
        with self._lock:
            self._ends[body] = end
            self._some.set()
        try:
            yield
        finally:
            with self._lock:
                self._ends.pop(body, None)

    def _run(self) -> None:
        while self._some.wait():
            with self._lock:
                for body, end in self._ends.items():
                    body.hurry(end)
                if not self._ends:
                    self._some.clear()
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
