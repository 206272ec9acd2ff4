"""Throttling of refused callers: their responses are sent at a steady pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from threading import Lock

from macule import settings

INTERVAL_S = 0.005  # 200 a second take 8 % of a CPU, nearly all of it in gunicorn
WAITING_DIVISOR = 4  # one in four threads may wait; further responses are sent at once


class Pacer:
    """Lets one thread continue each *interval_s*; the first does not wait.

    Args:
      max_waiting: threads that wait at once; others continue immediately.
    """

    def __init__(
        self,
        interval_s: float,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_s, self._max_waiting = interval_s, max_waiting
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._waiting = 0
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the next free slot, unless too many threads wait."""
        with self._lock:
            now = self._clock()
            if self._waiting >= self._max_waiting:
                return
            self._waiting += 1
            at, self._next = max(now, self._next), max(now, self._next) + self._interval_s
        try:
            self._sleep(at - now)
        finally:
            with self._lock:
                self._waiting -= 1


@cache
def pacer() -> Pacer:
    return Pacer(INTERVAL_S, max(1, settings.current().threads // WAITING_DIVISOR))
