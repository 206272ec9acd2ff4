"""Memory admission: reserve bytes for an image, wait for them, or refuse with figures."""

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
from macule.memory.degradation import DegradationLevels, Level
from macule.observability import metrics

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")
MB = 2**20
RESERVE_BYTES = 3 * MB  # for sockets, thread stacks and answers beside the decoder
BASELINE_WINDOW_S = 60.0  # the minimum use over one to two windows is the service's own need
RELEASE_INTERVAL_S = 0.1  # between attempts to release free memory before a refusal


class Admission:
    """Slots for images, and the bytes reserved for them.

    Args:
      limit_bytes: memory limit of the container.
      used_bytes: returns the bytes in use that cannot be reclaimed.
      slots: images read and decoded at once. More slots than processors only hold more memory.
      max_waiting: requests that may wait for a slot; further ones get Busy at once.
      cache: the answer cache, which is emptied first.
    """

    def __init__(
        self,
        limit_bytes: int,
        used_bytes: Callable[[], int],
        slots: int = 64,
        max_waiting: int = 64,
        cache: answers.AnswerCache | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.slots = slots
        self.held_bytes = self.admitted = self.waiting = 0
        self._used_bytes = used_bytes
        self._max_waiting = max_waiting
        self._cache = cache
        self._levels = DegradationLevels()
        self._lock = Lock()
        self._freed = Condition(self._lock)
        self._reservations = self._waiting_for_memory = 0
        self._released_at = self._window_start = -math.inf
        self._minima = (math.inf, math.inf)  # bytes: of the previous window and of this one
        self._pool: ThreadPoolExecutor | None = None

    def run_in_slot(self, job: Callable[[], T], timeout_s: float) -> T:
        """Run *job* in one of `slots` threads, waiting at most *timeout_s* until it begins.

        The threads are reused, as each thread that decodes and infers keeps buffers of 1.5 MB.
        Raises: Busy after the wait, or at once if too many requests wait; errors of the job.
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
            crowded = self.waiting >= self._max_waiting and self.admitted >= self.slots
            self.waiting += 1
        future = None if crowded else self._workers().submit(run)
        started = future is not None and (begun.wait(timeout_s) or not future.cancel())
        with self._lock:
            self.waiting -= 1
        if future is None or not started:
            why = "Other images are being decoded. Try again."
            raise Busy(why, slots=self.slots, waiting=self.waiting)
        try:
            return future.result()
        finally:
            del future  # its exception's frames reference this frame and the image

    def _workers(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.slots, "image")
            return self._pool

    @contextmanager
    def reserve(self, cost: int, timeout_s: float) -> Iterator[Level]:
        """Reserve *cost* bytes, waiting at most *timeout_s* while other requests hold them.

        Requests that fit go first, so a small image never waits for a large one.
        Yields: the degradation level of this request.
        Raises: Busy after the wait; CannotFit at once if no other request holds the missing bytes
          and the service itself needs the rest.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            level = self._wait(cost, deadline)
            self.held_bytes += cost
            self._reservations += 1
        try:
            yield level
        finally:
            with self._lock:
                self.held_bytes -= cost
                self._reservations -= 1
                self._freed.notify_all()

    def force_reserve(self, cost: int) -> Callable[[], None]:
        """Reserve *cost* bytes even if they are not free; return a function that releases them."""

        def change(size: int) -> None:
            with self._lock:
                self.held_bytes += size
                self._freed.notify_all()

        change(cost)
        return functools.partial(change, -cost)

    def _wait(self, cost: int, deadline: float) -> Level:
        """Wait until *cost* bytes are free; the caller holds the lock."""
        self.waiting += 1
        self._waiting_for_memory += 1
        try:
            while True:
                used = self._used_bytes()
                most = self._free(self._baseline(used)) + self.held_bytes
                free, level = self._free(used), self._update_level(used)
                slots = level.slots or math.inf
                if cost <= free and level.serves and slots > self._reservations:
                    return level
                # all requests in a slot wait for memory here: waiting would free nothing
                stuck = not self.held_bytes and self._waiting_for_memory >= self.admitted
                if stuck and time.monotonic() > self._released_at + RELEASE_INTERVAL_S:
                    if self._cache:
                        self._cache.set_enabled(False)
                    allocator.release_memory()
                    self._released_at = time.monotonic()
                    continue
                if cost > most and stuck and self._waiting_for_memory == 1:
                    raise CannotFit(
                        f"This image takes about {cost / MB:.0f} MB, and this instance of "
                        f"{self.limit_bytes / MB:.0f} MB has {max(0, most) / MB:.0f} MB for it. "
                        "Send a smaller copy, or a baseline JPEG or a PNG.",
                        **self._figures(cost, most),
                    )
                if not level.serves:
                    raise Busy("Memory has run short. Try again.", **self._figures(cost, free))
                left = deadline - time.monotonic()
                if stuck or left <= 0 or not self._freed.wait(left):
                    why = "Other images hold the memory that this one needs. Try again."
                    raise Busy(why, **self._figures(cost, free))
        finally:
            self.waiting -= 1
            self._waiting_for_memory -= 1

    def reset_baseline(self) -> None:
        """Discard the minimum use so far, as after loading a model, which stays in memory."""
        with self._lock:
            self._minima = (math.inf, math.inf)

    def level(self) -> Level:
        """Return the degradation level for the current memory use."""
        return self._update_level(self._used_bytes())

    def free(self) -> int:
        """Return the free bytes; reservations count in full even where they are in use already."""
        return self._free(self._used_bytes())

    def _update_level(self, used: int) -> Level:
        level = self._levels.update(used / self.limit_bytes)
        if self._cache:
            self._cache.set_enabled(level.cache)
        return level

    def _baseline(self, used: int) -> int:
        """Record *used* and return the recent minimum, as sockets may hold uploads right now."""
        now, (previous, present) = time.monotonic(), self._minima
        if now > self._window_start + BASELINE_WINDOW_S:
            previous, present, self._window_start = present, math.inf, now
        self._minima = previous, min(present, used)
        return int(min(self._minima))

    def _free(self, used: int) -> int:
        return self.limit_bytes - RESERVE_BYTES - self.held_bytes - used

    def _figures(self, cost: int, free: int) -> dict[str, float]:
        sizes = {"estimated_peak_mb": cost, "free_mb": max(0, free), "limit_mb": self.limit_bytes}
        return {name: round(size / MB, 1) for name, size in sizes.items()}


@functools.cache
def current() -> Admission:
    """Return the admission of this process, with the limit of its budget."""
    limit, max_waiting = budget.current().limit, settings.current().max_waiting
    slots = max(2, math.ceil(budget.cpu_count()))  # one image is received while another is decoded
    admission = Admission(
        limit.bytes, lambda: budget.used_bytes(limit), slots, max_waiting, cache=answers.current()
    )
    metrics.register_gauge("macule_memory_held_bytes", lambda: admission.held_bytes)
    metrics.register_gauge("macule_images_admitted", lambda: admission.admitted)
    metrics.register_gauge("macule_images_waiting", lambda: admission.waiting)
    return admission
