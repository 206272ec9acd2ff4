"""What all instances share in Redis or Valkey: answers by content, and what callers have asked for.

Imported only where REDIS_URL is set, and redis-py with it: 21 MB and 0.3 s of a start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from macule.errors import BadSetting

log = logging.getLogger("macule")

FORM = 1  # of the quotas' keys and values
TIMEOUT_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


# Counts one request against all KEYS, or against none. Each is the time, in microseconds of the
# server's clock, at which a quota is whole again; ARGV has the interval and the number of each.
TAKE = """
local time = redis.call('TIME')
local now, owed, admitted = time[1] * 1000000 + time[2], {}, 1
for i, key in ipairs(KEYS) do
  local interval, quota = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local whole_at = tonumber(redis.call('GET', key) or 0) or 0
  owed[i] = math.min(math.max(0, whole_at - now), interval * quota) -- a clock that jumped back
  if owed[i] + interval > interval * quota then admitted = 0 end
end
if admitted == 1 then
  for i, key in ipairs(KEYS) do
    owed[i] = owed[i] + ARGV[2 * i - 1]
    redis.call('SET', key, string.format('%.0f', now + owed[i]), 'PX', math.ceil(owed[i] / 1000))
  end
end
return {admitted, unpack(owed)}
"""


class Redis:
    """One server; where it does not answer it is let alone, ever longer; then one request tries.

    Its words that are no answer, such as OOM, concern what was asked alone.

    Args:
      what, instead: what is kept there, and what is done where it fails; for the log.
    """

    def __init__(
        self, url: str, what: str, instead: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                # a connection that the server closed meanwhile is made anew, once and at once
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            )
        except ValueError:  # its text may have the password
            raise BadSetting("REDIS_URL is no address of Redis or Valkey.") from None
        self._what, self._instead = what, instead
        self._clock = clock
        self._lock = Lock()
        self._pause_s = self._until = 0.0
        self._told: dict[str, str] = {}

    def ask(self, command: str, *words: str | bytes | int) -> Any:
        """Return what the server replies, None where it does not or says no."""
        if self._resting():
            return None
        reply, fault, reached = None, "", True
        try:
            reply = self._client.execute_command(command, *words)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:  # the server answers, and says no: OOM, WRONGTYPE
            fault = type(error).__name__
        except Exception as error:  # whatever it is: who asks goes on without an answer
            fault, reached = type(error).__name__, False
        with self._lock:
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._pause_s = 0.0 if reached else pause_s
            self._until = self._clock() + self._pause_s
            changed, self._told[command] = fault != self._told.get(command, ""), fault
        if changed and fault:
            said, facts = "%s fails at %s: %s; %s", {"event": "redis_fails"}
            words = (self._what, command, fault, self._instead)
            log.warning(said, *words, extra={"facts": facts})
        elif changed:
            facts = {"event": "redis_back"}
            log.info("%s is back at %s", self._what, command, extra={"facts": facts})
        return reply

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _resting(self) -> bool:
        """Say whether it is let alone now; after a pause it is for all but the one who asks."""
        with self._lock:
            now = self._clock()
            if self._pause_s and now >= self._until:
                self._until = now + self._pause_s
                return False
            return now < self._until


class Answers:
    """Answers by content; where the server fails nothing is kept."""

    held_bytes = 0  # in this process

    def __init__(
        self,
        url: str,
        ttl_s: float,
        most_value_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = Redis(url, "the cache", "answers are computed", clock)
        self._most_value_bytes = most_value_bytes
        self._ttl_ms = int(ttl_s * 1e3)

    def get(self, key: str) -> bytes | None:
        """Return what is kept, at most *most_value_bytes* of it: anybody may have put it there."""
        found = self.server.ask("GETRANGE", key, 0, self._most_value_bytes - 1)
        return found if isinstance(found, bytes) and found else None

    def put(self, key: str, value: bytes) -> None:
        """Keep *value*, unless it is too large."""
        if len(value) <= self._most_value_bytes:
            self.server.ask("SET", key, value, "PX", self._ttl_ms)

    def allow(self, keeps: bool) -> None:
        """Go on: this takes none of the process's memory."""


class Quotas:
    """What callers have asked for, counted for all instances.

    Args:
      policies: of each its name, the microseconds in which one request's worth comes back, and how
        many there are.
    """

    def __init__(
        self,
        url: str,
        policies: Sequence[tuple[str, int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = Redis(url, "the shared quota", "each process counts for itself", clock)
        self._names = [name for name, _, _ in policies]
        self._numbers = [number for policy in policies for number in policy[1:]]

    def take(self, caller: str) -> tuple[bool, list[int]] | None:
        """Count a request, as `quota.Memory` does; None where the server does not answer."""
        keys = [f"macule:{FORM}:quota:{name}:{caller}" for name in self._names]
        reply = self.server.ask("EVAL", TAKE, len(keys), *keys, *self._numbers)
        if not isinstance(reply, list) or len(reply) != len(keys) + 1:
            return None
        return reply[0] == 1, reply[1:]
