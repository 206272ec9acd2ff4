"""Client of Redis or Valkey for what all instances share: cached answers and request quotas.

Imported only if REDIS_URL is set, as redis-py takes 21 MB and 0.3 s of a start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from macule.errors import BadSetting

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError as error:
    from macule import extras

    raise BadSetting(extras.install_message("REDIS_URL", "redis")) from error

log = logging.getLogger("macule")

Clock = Callable[[], float]
FORMAT_VERSION = 1  # of the quotas' keys and values
TIMEOUT_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


# Counts one request against all KEYS, or against none. A value is the time, in microseconds of the
# server's clock, at which a quota is full again; ARGV has the interval and the quota of each key.
TAKE_SCRIPT = """
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


class RedisClient:
    """A server that is skipped for a growing pause after each failure to answer.

    After the pause one request tries again. Error replies, such as OOM, cause no pause.

    Args:
      purpose, fallback: for the log: what the server is used for, and what happens without it.
    """

    def __init__(
        self, url: str, purpose: str, fallback: str, clock: Clock = time.monotonic
    ) -> None:
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                # reconnect once, without a pause, if the server closed an idle connection
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            )
        except ValueError:  # its text may contain the password
            raise BadSetting("REDIS_URL is not a Redis or Valkey URL.") from None
        self._purpose, self._fallback = purpose, fallback
        self._clock = clock
        self._lock = Lock()
        self._pause_s = self._paused_until = 0.0
        self._faults: dict[str, str] = {}  # by command, as last logged

    def execute(self, command: str, *arguments: str | bytes | int) -> Any:
        """Return the server's reply; None if there is none, or an error reply."""
        if self.is_paused():
            return None
        reply, fault, reached = None, "", True
        try:
            reply = self._client.execute_command(command, *arguments)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:  # an error reply: OOM, WRONGTYPE
            fault = type(error).__name__
        except Exception as error:  # any other failure: the caller continues without a reply
            fault, reached = type(error).__name__, False
        with self._lock:
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._pause_s = 0.0 if reached else pause_s
            self._paused_until = self._clock() + self._pause_s
            changed, self._faults[command] = fault != self._faults.get(command, ""), fault
        if changed and fault:
            facts = {"event": "redis_fails"}
            values = (self._purpose, command, fault, self._fallback)
            log.warning("%s fails at %s: %s; %s", *values, extra={"facts": facts})
        elif changed:
            facts = {"event": "redis_back"}
            log.info("%s works again at %s", self._purpose, command, extra={"facts": facts})
        return reply

    def close(self) -> None:
        self._client.close()

    def is_paused(self) -> bool:
        """Return whether the server is skipped; after a pause only the first caller gets False."""
        with self._lock:
            now = self._clock()
            if self._pause_s and now >= self._paused_until:
                self._paused_until = now + self._pause_s
                return False
            return now < self._paused_until


class RedisCache:
    """Answer cache in Redis; while the server fails, nothing is stored."""

    held_bytes = 0  # in this process

    def __init__(
        self, url: str, ttl_s: float, max_value_bytes: int, clock: Clock = time.monotonic
    ) -> None:
        self.server = RedisClient(url, "the cache", "answers are computed", clock)
        self._max_value_bytes = max_value_bytes
        self._ttl_ms = int(ttl_s * 1e3)

    def get(self, key: str) -> bytes | None:
        """Return at most *max_value_bytes* of the value, as any client of the server may set it."""
        found = self.server.execute("GETRANGE", key, 0, self._max_value_bytes - 1)
        return found if isinstance(found, bytes) and found else None

    def put(self, key: str, value: bytes) -> None:
        """Store *value*, unless it is too large."""
        if len(value) <= self._max_value_bytes:
            self.server.execute("SET", key, value, "PX", self._ttl_ms)

    def set_enabled(self, enabled: bool) -> None:
        """Do nothing, as this cache takes no memory of the process."""


class RedisQuotas:
    """Request quotas of callers, counted for all instances.

    Args:
      policies: name, microseconds until one request is available again, and number of requests.
    """

    def __init__(
        self, url: str, policies: Sequence[tuple[str, int, int]], clock: Clock = time.monotonic
    ) -> None:
        self.server = RedisClient(url, "the shared quota", "each process counts for itself", clock)
        self._names = [name for name, _, _ in policies]
        self._numbers = [number for policy in policies for number in policy[1:]]

    def take(self, caller: str) -> tuple[bool, list[int]] | None:
        """Count a request, as the in-memory quotas do; None if the server does not answer."""
        keys = [f"macule:{FORMAT_VERSION}:quota:{name}:{caller}" for name in self._names]
        reply = self.server.execute("EVAL", TAKE_SCRIPT, len(keys), *keys, *self._numbers)
        if not isinstance(reply, list) or len(reply) != len(keys) + 1:
            return None
        return reply[0] == 1, reply[1:]
