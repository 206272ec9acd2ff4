"""When a worker has kept too much memory or served enough, and how another takes its place.

gunicorn's own signals do it: TTIN asks the arbiter for one more worker, which warms its model
before it accepts anything, and then lets the arbiter dismiss the oldest by TTOU. Where there is no
room for two, the worker ends after its last answer; meanwhile callers wait in the socket's queue.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable

from macule import settings
from macule.errors import Unavailable
from macule.memory import admission, budget, processes
from macule.observability import metrics

log = logging.getLogger("macule")

MB = 2**20
SETTLED = 20  # predictions, after which a worker's memory is what it should be
GROWTH = 0.16  # of the limit, beyond that: as much as parts one band from the next
BODIES = 1.2  # or what the images being read may hold, and the buffers around them
STAYS_S = 5.0  # what a photo being decoded takes comes and goes
LOOK_S = 1.0
JITTER = 0.1  # of MAX_REQUESTS, so that workers do not all end at once
RETRY_S = 5.0


class Wear:
    """What one worker has been through.

    Args:
      growth_bytes: of private memory, beyond what it settles at, with which it is worn.
      most_bytes: private memory with which it is worn, whatever it settles at.
      most_predictions: after which it is worn.
      now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        growth_bytes: int,
        most_bytes: int | None,
        most_predictions: int | None,
        now: float,
    ) -> None:
        self.predictions = 0
        self._growth_bytes = growth_bytes
        self._most_bytes = most_bytes
        self._most_predictions = most_predictions
        self._looked = self._below = now  # `_below`: when it last kept no more than it should
        self._worn = False

    def add(self, private: Callable[[], int], now: float) -> str:
        """Count a prediction; say why the worker is worn when it has just become so, else "".

        Args:
          private: gives this process's private memory in bytes.
          now: as above.
        """
        self.predictions += 1
        reason = "" if self._worn else self._judge(private, now)
        self._worn = self._worn or bool(reason)
        return reason

    def _judge(self, private: Callable[[], int], now: float) -> str:
        if self._most_predictions and self.predictions >= self._most_predictions:
            return f"it has made {self.predictions} predictions"
        if self.predictions < SETTLED or now < self._looked + LOOK_S:
            return ""
        self._looked, size = now, private()
        if self._most_bytes is None:
            self._most_bytes = size + self._growth_bytes
        if size <= self._most_bytes:
            self._below = now
        if now - self._below < STAYS_S:
            return ""
        return f"it keeps {size / MB:.0f} MB, more than {self._most_bytes / MB:.0f}"


def watch(chosen: settings.Settings) -> Wear:
    """Begin to watch this worker, as the settings say."""
    images = admission.current().slots * chosen.max_image_bytes
    growth = int(max(GROWTH * budget.current().limit.bytes, BODIES * images))
    growth += 0 if chosen.redis_url else chosen.cache_mb * MB  # it fills long after
    most_bytes = chosen.recycle_mb and chosen.recycle_mb * MB
    most = chosen.max_requests
    most = most and most + random.randint(0, int(most * JITTER))  # noqa: S311
    return Wear(growth, most_bytes, most, time.monotonic())


def served(wear: Wear, arbiter: int) -> None:
    """Count a prediction of this worker; once worn, ask *arbiter*, a pid, for another."""
    reason = wear.add(processes.private, time.monotonic())
    if not reason:
        return
    room = admission.current().free() > processes.private()
    tell(reason)
    if room:
        os.kill(arbiter, signal.SIGTTIN)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def tell(reason: str) -> None:
    """Log and count that this worker is replaced."""
    facts = {"event": "recycle", "pid": os.getpid()}
    log.warning("worker %d is replaced: %s", os.getpid(), reason, extra={"facts": facts})
    metrics.add("macule_recycles_total")


def take_over(warm_up: Callable[[], object], arbiter: int, surplus: bool) -> None:
    """Warm this worker before it accepts a request; then let the oldest go if it is one too many.

    A model that has become unreadable meanwhile leaves the old worker, which has it, in its place.
    """
    while True:
        try:
            warm_up()
            break
        except Unavailable:
            if not surplus:
                return
            time.sleep(RETRY_S)
    if surplus:
        os.kill(arbiter, signal.SIGTTOU)
