"""What a request will cost in bytes, and room for it: wait, or refuse with figures."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Event, Lock
from typing import TYPE_CHECKING, TypeVar

from macule import settings
from macule.caching import answers
from macule.errors import Busy, CannotFit
from macule.memory import allocator, budget
from macule.memory.degradation import Ladder, Rung
from macule.observability import metrics

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")
MB = 2**20
RESERVE_BYTES = 3 * MB  # what sockets, thread stacks and answers take beside the decoder
LEAST_S = 60.0  # the least use of this long, or twice, is what the service needs itself
SWEEP_S = 0.1  # between sweeps for what is free but not given back, before a refusal


class Admission:
    """Slots for images, and the bytes that they hold; the rest of the limit is for the next one.

    Args:
      limit_bytes: of the container.
      used: bytes of it that cannot be reclaimed, now.
      slots: images at once, read and decoded; more than the processors can decode hold memory only.
      most_waiting: requests that may wait for their turn; the next one is told to come back.
      kept: answers, the first thing to be given up.
    """

    def __init__(
        self,
        limit_bytes: int,
        used: Callable[[], int],
        slots: int = 64,
        most_waiting: int = 64,
        kept: answers.Store | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.slots = slots
        self.held = self.admitted = self.waiting = 0
        self._used = used
        self._most_waiting = most_waiting
        self._kept = kept
        self._ladder = Ladder()
        self._lock = Lock()
        self._freed = Condition(self._lock)
        self._inside = self._asking = 0
        self._swept = self._turned = -math.inf
        self._least = (math.inf, math.inf)  # bytes: before `_turned`, and since
        self._pool: ThreadPoolExecutor | None = None

    def turn(self, job: Callable[[], T], timeout_s: float) -> T:
        """Run *job* in one of `slots` threads, waiting at most *timeout_s* until it begins.

        Always the same threads: each one that decodes and infers keeps buffers of its own, 1.5 MB.
        Raises: Busy after the wait, or at once where too many wait; what the job raises.
        """
        begun = Event()

        def run() -> T:
            with self._lock:
                self.admitted += 1
            begun.set()
            try:
                return job()
            finally:
                with self._lock:
                    self.admitted -= 1
                    self._freed.notify_all()

        with self._lock:
            crowded = self.waiting >= self._most_waiting and self.admitted >= self.slots
            self.waiting += 1
        future = None if crowded else self._workers().submit(run)
        begins = future is not None and (begun.wait(timeout_s) or not future.cancel())
        with self._lock:
            self.waiting -= 1
        if future is None or not begins:
            raise Busy(
                "Other images are being decoded. Try again.",
                slots=self.slots,
                waiting=self.waiting,
            )
        try:
            return future.result()
        finally:
            del future  # it holds what the job raised, whose frames hold this one and the image

    def _workers(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.slots, "image")
            return self._pool

    @contextmanager
    def room(self, cost: int, timeout_s: float) -> Iterator[Rung]:
        """Hold *cost* bytes, waiting at most *timeout_s* while others hold them.

        Whoever fits goes first, so that a small image never waits for a large one's room.
        Yields: what may be done for this request.
        Raises: Busy after the wait; CannotFit at once where no other request has what is missing
          and the service needs the rest itself.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            rung = self._wait(cost, deadline)
            self.held += cost
            self._inside += 1
        try:
            yield rung
        finally:
            with self._lock:
                self.held -= cost
                self._inside -= 1
                self._freed.notify_all()

    def hold(self, cost: int) -> Callable[[], None]:
        """Hold *cost* bytes, whether there is room or not, until what is returned is called."""

        def change(size: int) -> None:
            with self._lock:
                self.held += size
                self._freed.notify_all()

        change(cost)
        return functools.partial(change, -cost)

    def _wait(self, cost: int, deadline: float) -> Rung:
        """Wait until *cost* bytes are free; the caller holds the lock."""
        self.waiting += 1
        self._asking += 1
        try:
            while True:
                used = self._used()
                most = self._left(self._lowest(used)) + self.held
                free, rung = self._left(used), self._step(used)
                if cost <= free and rung.serves and (rung.slots or math.inf) > self._inside:
                    return rung
                # whoever has a slot asks for more: waiting would free nothing
                stuck = not self.held and self._asking >= self.admitted
                if stuck and time.monotonic() > self._swept + SWEEP_S:
                    if self._kept:
                        self._kept.allow(False)
                    allocator.release_memory()
                    self._swept = time.monotonic()
                    continue
                if cost > most and stuck and self._asking == 1:
                    raise CannotFit(
                        f"This image takes about {cost / MB:.0f} MB, and this instance of "
                        f"{self.limit_bytes / MB:.0f} MB has {max(0, most) / MB:.0f} MB for it. "
                        "Send a smaller copy, or a baseline JPEG or a PNG.",
                        **self._figures(cost, most),
                    )
                if not rung.serves:
                    raise Busy("Memory has run short. Try again.", **self._figures(cost, free))
                left = deadline - time.monotonic()
                if stuck or left <= 0 or not self._freed.wait(left):
                    raise Busy(
                        "Other images hold the memory that this one needs. Try again.",
                        **self._figures(cost, free),
                    )
        finally:
            self.waiting -= 1
            self._asking -= 1

    def settle(self) -> None:
        """Forget how little memory was used before: what has been loaded stays."""
        with self._lock:
            self._least = (math.inf, math.inf)

    def rung(self) -> Rung:
        """Say what may be done with memory as it is."""
        return self._step(self._used())

    def free(self) -> int:
        """Return the bytes left; what is held counts in full, though part of it is used already."""
        return self._left(self._used())

    def _step(self, used: int) -> Rung:
        rung = self._ladder.step(used / self.limit_bytes)
        if self._kept:
            self._kept.allow(rung.cache)
        return rung

    def _lowest(self, used: int) -> int:
        """Count *used* in; return the least of late. Now, sockets may hold what others sent."""
        now, (before, since) = time.monotonic(), self._least
        if now > self._turned + LEAST_S:
            before, since, self._turned = since, math.inf, now
        self._least = before, min(since, used)
        return int(min(self._least))

    def _left(self, used: int) -> int:
        return self.limit_bytes - RESERVE_BYTES - self.held - used

    def _figures(self, cost: int, free: int) -> dict[str, float]:
        return {
            "estimated_peak_mb": round(cost / MB, 1),
            "free_mb": round(max(0, free) / MB, 1),
            "limit_mb": round(self.limit_bytes / MB, 1),
        }


@functools.cache
def current() -> Admission:
    """Return this process's admission, under the limit of its budget."""
    limit, most_waiting = budget.current().limit, settings.current().max_waiting
    slots = max(2, math.ceil(budget.processors()))  # one is read from the network meanwhile
    here = Admission(
        limit.bytes, lambda: budget.used(limit), slots, most_waiting, kept=answers.current()
    )
    metrics.register_gauge("macule_memory_held_bytes", lambda: here.held)
    metrics.register_gauge("macule_images_admitted", lambda: here.admitted)
    metrics.register_gauge("macule_images_waiting", lambda: here.waiting)
    return here
