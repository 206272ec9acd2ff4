"""Rate limits: the generic cell rate algorithm (GCRA), in memory or in Redis.

It keeps one number for each caller and policy: the time at which the whole quota is available again
(the "theoretical arrival time" of ITU-T I.371; see brandur.org/rate-limiting). A quota of 60 a
minute allows 60 requests at once, and then one each second.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from macule.errors import QuotaExceeded
from macule.settings.access import US_PER_S, Policy

if TYPE_CHECKING:
    from macule.caching.redis_client import RedisQuotas

Policies = Sequence[Policy]
MAX_CALLERS = 10_000  # kept in memory: 3 MB, measured by a test

_creation_lock = Lock()


class MemoryLimiter:
    """Rate limits in this process; beyond MAX_CALLERS the least recent caller is removed.

    Args:
      clock: monotonic, in microseconds.
    """

    def __init__(
        self, policies: Policies, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    ) -> None:
        self._policies = policies
        self._clock = clock
        self._lock = Lock()
        self.full_at: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def take(self, caller: str) -> tuple[bool, list[int]]:
        """Count a request of *caller* unless a quota is exhausted.

        Returns: whether it is admitted, and the microseconds until each quota is full again.
        """
        with self._lock:
            now = self._clock()
            full_times = self.full_at.pop(caller, (now,) * len(self._policies))
            owed = [max(0, full_at - now) for full_at in full_times]
            admitted = not _exhausted(self._policies, owed)
            if admitted:
                pairs = zip(owed, self._policies, strict=True)
                owed = [us + policy.interval_us for us, policy in pairs]
            self.full_at[caller] = tuple(now + us for us in owed)
            if len(self.full_at) > MAX_CALLERS:
                self.full_at.popitem(last=False)
        return admitted, owed


class RateLimiter:
    """Rate limits in Redis if it is set and answers, else in this process."""

    def __init__(self, policies: Policies, shared: RedisQuotas | None = None) -> None:
        self._policies = policies
        self._memory = MemoryLimiter(policies)
        self._shared = shared

    def take(self, caller: str) -> dict[str, str]:
        """Count a request of *caller*; return the RateLimit headers.

        Raises: QuotaExceeded.
        """
        result = self._shared.take(caller) if self._shared else None
        admitted, owed = result or self._memory.take(caller)
        if not admitted:
            raise quota_exceeded(self._policies, owed)
        return _headers(self._policies, self._policies, owed)


def rate_limiter(policies: tuple[Policy, ...], redis_url: str | None) -> RateLimiter:
    with _creation_lock:  # two limiters would count separately
        return _rate_limiter(policies, redis_url)


@cache
def _rate_limiter(policies: tuple[Policy, ...], redis_url: str | None) -> RateLimiter:
    if not redis_url:
        return RateLimiter(policies)
    from macule.caching.redis_client import RedisQuotas

    rows = [(policy.name, policy.interval_us, policy.quota) for policy in policies]
    return RateLimiter(policies, RedisQuotas(redis_url, rows))


def _exhausted(policies: Policies, owed: Sequence[int]) -> list[tuple[Policy, int]]:
    """Return the policies without a request left, and what is owed to each."""
    pairs = zip(policies, owed, strict=True)
    return [(p, us) for p, us in pairs if us + p.interval_us > p.quota * p.interval_us]


def quota_exceeded(policies: Policies, owed: Sequence[int]) -> QuotaExceeded:
    exhausted = _exhausted(policies, owed)
    spent, owing = [policy for policy, _ in exhausted], [us for _, us in exhausted]
    wait_s = max([1, *(_remaining(*pair)[1] for pair in exhausted)])
    quotas = " and ".join(f"{policy.quota:,} a {policy.name}" for policy in spent)
    return QuotaExceeded(
        f"Your quota is {quotas}. Try again in {wait_s} s.",
        wait_s,
        _headers(policies, spent, owing),
        **{"violated-policies": [policy.name for policy in spent]},
    )


def _headers(policies: Policies, reported: Policies, owed: Sequence[int]) -> dict[str, str]:
    """Return the headers of draft-ietf-httpapi-ratelimit-headers-11.

    RateLimit has the remaining requests of *reported* as `r`, and the seconds until there is one
    more as `t`.
    """
    limits = []
    for policy, us in zip(reported, owed, strict=True):
        left, wait_s = _remaining(policy, us)
        limits.append(f'"{policy.name}";r={left};t={wait_s}')
    return {
        "RateLimit-Policy": ", ".join(f'"{p.name}";q={p.quota};w={p.window_s}' for p in policies),
        "RateLimit": ", ".join(limits),
    }


def _remaining(policy: Policy, owed_us: int) -> tuple[int, int]:
    """Return the remaining requests, and the seconds until there is one more."""
    used = -(-owed_us // policy.interval_us)
    wait_us = owed_us - max(0, used - 1) * policy.interval_us
    return max(0, policy.quota - used), -(-wait_us // US_PER_S)
