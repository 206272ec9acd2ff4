"""A request's body: read once, bounded in bytes and in time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import BinaryIO

from macule.errors import BadRequest, BodyTooLarge, SlowBody

CHUNK_BYTES = 2**18  # each read gives the GIL away, and may wait 5 ms for it
# After a refusal the rest of a body is read and dropped, or the caller's client sees its
# connection break instead of the answer. Bounded: beyond this it does break.
DRAIN_BYTES = 32 * 2**20
DRAIN_S = 5.0
# Whoever may not ask at all is heard for less: the answer goes out first, and then this is dropped.
REFUSED_BYTES = 4 * 2**20
REFUSED_S = 1.0
LOOK_S = 0.1  # at the clock, while bodies are read
LEAST_BYTES_PER_S = 2**15  # a photo of 3 MB within 100 s: a phone at the edge of its network


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
        self.read_s = 0.0
        self._ended = length == 0
        self._late = False
        self._patience_s = 1 / LEAST_BYTES_PER_S  # more, for each byte that came

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
            raise SlowBody(
                f"Only {self._read:,} bytes came in time. Send the photo over a faster connection, "
                "or a smaller copy.",
                received_bytes=self._read,
            )
        if self.length is not None and self._read < self.length:
            raise BadRequest(f"The body ended after {self._read} of {self.length} bytes.")

    @property
    def read_bytes(self) -> int:
        """The bytes that came so far, whatever the sender says of them."""
        return self._read

    def drain(self) -> None:
        """Read and drop what is left, within bounds."""
        try:
            with self._watched(DRAIN_S):
                while self._read < DRAIN_BYTES and self._next():
                    pass
        except BadRequest:
            self._ended = True  # the sender is gone

    def refuse(self) -> None:
        """Read and drop a little of what is left, without haste; then hang up."""
        if self._ended:
            return
        self._patience_s = 0.0
        try:
            with self._watched(REFUSED_S):
                while self._read < REFUSED_BYTES and self._next():
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
        except OSError as error:
            raise BadRequest("The body could not be read to its end.") from error
        self.read_s += time.perf_counter() - asked
        self._read += len(chunk)
        self._ended = not chunk
        return chunk

    @contextmanager
    def _watched(self, timeout_s: float) -> Iterator[None]:
        """Hang up on a sender who is slower than allowed: a read that blocks sees no clock."""
        hang_up = self._hang_up
        if self._ended or hang_up is None or timeout_s == math.inf:
            yield
            return
        with _watch().over(self, time.monotonic() + timeout_s):
            yield

    def hurry(self, end: float) -> None:
        """Hang up if *end* has passed, and a second more for each LEAST_BYTES_PER_S that came."""
        late = end + self._read * self._patience_s <= time.monotonic()
        if late and not self._late and self._hang_up:
            self._late = True
            self._hang_up()


class Watch:
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
            time.sleep(LOOK_S)


@functools.cache
def _watch() -> Watch:
    return Watch()


def _too_large(limit_bytes: int, found_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request has {found_bytes:,} bytes or more; at most {limit_bytes:,} are read. Send a "
        "smaller copy of the image.",
        limit_bytes=limit_bytes,
    )
