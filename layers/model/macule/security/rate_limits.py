"""How much one caller may ask for: the generic cell rate algorithm, in memory or in Redis.

Of each caller and policy one number is kept: the time at which its whole quota is there again (the
"theoretical arrival time" of ITU-T I.371; see brandur.org/rate-limiting). A quota of 60 a minute is
60 at once and one each second from then on.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from macule.errors import BadSetting, QuotaExceeded
from macule.settings.access import US, Policy

if TYPE_CHECKING:
    from macule.caching.redis_client import RedisQuotas

MOST_CALLERS = 10_000  # whose numbers are kept; 3 MB, a test measures it


_making = Lock()


class Memory:
    """What this process's callers owe, the longest unseen going first.

    Args:
      clock: microseconds that never go back.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._policies = policies
        self._clock = clock
        self._lock = Lock()
        self._full_at: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def take(self, caller: str) -> tuple[bool, list[int]]:
        """Count a request of *caller*, unless a policy is exhausted.

        Returns: whether it is let in, and the microseconds until each quota is whole again.
        """
        with self._lock:
            now = self._clock()
            kept = self._full_at.pop(caller, (now,) * len(self._policies))
            owed = [max(0, full_at - now) for full_at in kept]
            admitted = not _exhausted(self._policies, owed)
            if admitted:
                pairs = zip(owed, self._policies, strict=True)
                owed = [us + policy.interval_us for us, policy in pairs]
            self._full_at[caller] = tuple(now + us for us in owed)
            if len(self._full_at) > MOST_CALLERS:
                self._full_at.popitem(last=False)
        return admitted, owed


class Meter:
    """Counts in Redis where there is one that answers, else in this process."""

    def __init__(self, policies: Sequence[Policy], shared: RedisQuotas | None = None) -> None:
        self._policies = policies
        self._memory = Memory(policies)
        self._shared = shared

    def take(self, caller: str) -> dict[str, str]:
        """Count a request of *caller*; return the headers that say what is left.

        Raises: QuotaExceeded.
        """
        found = self._shared.take(caller) if self._shared else None
        admitted, owed = found or self._memory.take(caller)
        if not admitted:
            raise _refusal(self._policies, owed)
        return _headers(self._policies, self._policies, owed)


def meter(policies: tuple[Policy, ...], redis_url: str | None) -> Meter:
    """Return this process's meter."""
    with _making:  # two at once would each count for itself
        return _meter(policies, redis_url)


@cache
def _meter(policies: tuple[Policy, ...], redis_url: str | None) -> Meter:
    if not redis_url:
        return Meter(policies)
    try:
        from macule.caching.redis_client import RedisQuotas
    except ModuleNotFoundError as error:
        from macule import extras

        raise BadSetting(extras.needed("REDIS_URL", "redis")) from error
    return Meter(
        policies, RedisQuotas(redis_url, [(p.name, p.interval_us, p.quota) for p in policies])
    )


def _exhausted(policies: Sequence[Policy], owed: Sequence[int]) -> list[int]:
    """Return the places of the policies that have no request's worth left."""
    return [
        place
        for place, (policy, us) in enumerate(zip(policies, owed, strict=True))
        if us + policy.interval_us > policy.quota * policy.interval_us
    ]


def _refusal(policies: Sequence[Policy], owed: Sequence[int]) -> QuotaExceeded:
    places = _exhausted(policies, owed)
    spent = [policies[place] for place in places]
    owing = [owed[place] for place in places]
    wait_s = max([1, *(_left(*pair)[1] for pair in zip(spent, owing, strict=True))])
    told = " and ".join(f"{policy.quota:,} a {policy.name}" for policy in spent)
    return QuotaExceeded(
        f"You may ask {told}. Try again in {wait_s} s.",
        wait_s,
        _headers(policies, spent, owing),
        **{"violated-policies": [policy.name for policy in spent]},
    )


def _headers(
    policies: Sequence[Policy], told: Sequence[Policy], owed: Sequence[int]
) -> dict[str, str]:
    """Write the headers of draft-ietf-httpapi-ratelimit-headers-11.

    Its `t` is the time within which no more than `r` may be asked for: until one more comes back.
    """
    limits = []
    for policy, us in zip(told, owed, strict=True):
        left, wait_s = _left(policy, us)
        limits.append(f'"{policy.name}";r={left};t={wait_s}')
    return {
        "RateLimit-Policy": ", ".join(f'"{p.name}";q={p.quota};w={p.window_s}' for p in policies),
        "RateLimit": ", ".join(limits),
    }


def _left(policy: Policy, owed_us: int) -> tuple[int, int]:
    """Return how many requests are left, and the seconds until there is one more."""
    used = -(-owed_us // policy.interval_us)
    wait_us = owed_us - max(0, used - 1) * policy.interval_us
    return max(0, policy.quota - used), -(-wait_us // US)
