"""Replacement of a gunicorn worker that keeps too much memory or has served enough predictions.

TTIN asks the arbiter for one more worker. That worker loads its model before it accepts requests,
then sends TTOU, and the arbiter stops the oldest worker. If memory does not suffice for two
workers, the old worker ends after its last answer, and callers wait in the listen queue meanwhile.
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
SETTLING_PREDICTIONS = 20  # predictions after which the memory of a worker is stable
GROWTH_SHARE = 0.16  # of the limit, as allowed growth: the distance between two memory bands
# Of the images being read, with their buffers; the larger of both growths applies.
BODY_FACTOR = 1.2
SUSTAINED_S = 5.0  # memory of a photo that is being decoded is temporary
CHECK_INTERVAL_S = 1.0
JITTER = 0.1  # of MAX_REQUESTS, so that workers do not all end at once
RETRY_S = 5.0


class RecyclePolicy:
    """Decides when a worker must be replaced.

    Args:
      growth_bytes: allowed growth of private memory above its stable value.
      max_bytes: allowed private memory, whatever the stable value; None derives it from growth.
      max_predictions: predictions of one worker; None for no limit.
      now: seconds of a monotonic clock.
    """

    def __init__(
        self, growth_bytes: int, max_bytes: int | None, max_predictions: int | None, now: float
    ) -> None:
        self.predictions = 0
        self._growth_bytes = growth_bytes
        self._max_bytes = max_bytes
        self._max_predictions = max_predictions
        self._checked_at = self._below_at = now  # `_below_at`: when memory was last within limits
        self._expired = False

    def add(self, private_bytes: Callable[[], int], now: float) -> str:
        """Count a prediction; return the reason when the worker first exceeds a limit, else "".

        Args:
          private_bytes: returns the private memory of this process.
          now: seconds of the same clock as in the constructor.
        """
        self.predictions += 1
        reason = "" if self._expired else self._check(private_bytes, now)
        self._expired = self._expired or bool(reason)
        return reason

    def _check(self, private_bytes: Callable[[], int], now: float) -> str:
        if self._max_predictions and self.predictions >= self._max_predictions:
            return f"it has made {self.predictions} predictions"
        if self.predictions < SETTLING_PREDICTIONS or now < self._checked_at + CHECK_INTERVAL_S:
            return ""
        self._checked_at, size = now, private_bytes()
        if self._max_bytes is None:
            self._max_bytes = size + self._growth_bytes
        if size <= self._max_bytes:
            self._below_at = now
        if now - self._below_at < SUSTAINED_S:
            return ""
        return f"it uses {size / MB:.0f} MB, more than {self._max_bytes / MB:.0f}"


def create_policy(chosen: settings.Settings) -> RecyclePolicy:
    """Return the recycling policy of this worker from the settings."""
    images = admission.current().slots * chosen.max_image_bytes
    growth = int(max(GROWTH_SHARE * budget.current().limit.bytes, BODY_FACTOR * images))
    growth += 0 if chosen.redis_url else chosen.cache_mb * MB  # the cache fills later
    max_bytes = chosen.recycle_mb and chosen.recycle_mb * MB
    limit = chosen.max_requests
    limit = limit and limit + random.randint(0, int(limit * JITTER))  # noqa: S311
    return RecyclePolicy(growth, max_bytes, limit, time.monotonic())


def count_prediction(policy: RecyclePolicy, arbiter: int) -> None:
    """Count a prediction; when a limit is exceeded, have the pid *arbiter* start a new worker."""
    reason = policy.add(processes.private_bytes, time.monotonic())
    if not reason:
        return
    fits_two = admission.current().free() > processes.private_bytes()
    log_recycle(reason)
    if fits_two:
        os.kill(arbiter, signal.SIGTTIN)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def log_recycle(reason: str) -> None:
    facts = {"event": "recycle", "pid": os.getpid()}
    log.warning("worker %d is replaced: %s", os.getpid(), reason, extra={"facts": facts})
    metrics.add("macule_recycles_total")


def warm_up_worker(warm_up: Callable[[], object], arbiter: int, surplus: bool) -> None:
    """Load the model before this worker accepts requests; then stop the oldest if *surplus*.

    If the model has become unreadable, the old worker, which has it loaded, keeps serving.
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
