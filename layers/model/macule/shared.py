"""Answers by content in Redis or Valkey, for all instances; where that fails nothing is kept.

Imported only where REDIS_URL is set, and redis-py with it: 21 MB and 0.3 s of a start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from macule.errors import BadSetting

log = logging.getLogger("macule")

TIMEOUT_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class Redis:
    """One server; where it does not answer it is let alone, ever longer; then one request tries.

    Its words that are no answer, such as OOM, concern what was asked alone.
    """

    held_bytes = 0  # in this process

    def __init__(
        self,
        url: str,
        ttl_s: float,
        most_value_bytes: int,
        clock: Callable[[], float] = time.monotonic,
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
        self._most_value_bytes = most_value_bytes
        self._ttl_ms = int(ttl_s * 1e3)
        self._clock = clock
        self._lock = Lock()
        self._pause_s = self._until = 0.0
        self._told = {"GETRANGE": "", "SET": ""}

    def get(self, key: str) -> bytes | None:
        """Return what is kept, at most *most_value_bytes* of it: anybody may have put it there."""
        found = self._ask("GETRANGE", key, 0, self._most_value_bytes - 1)
        return found if isinstance(found, bytes) and found else None

    def put(self, key: str, value: bytes) -> None:
        """Keep *value*, unless it is too large."""
        if len(value) <= self._most_value_bytes:
            self._ask("SET", key, value, "PX", self._ttl_ms)

    def allow(self, keeps: bool) -> None:
        """Go on: this takes none of the process's memory."""

    def _ask(self, command: str, *words: str | bytes | int) -> Any:
        if self._resting():
            return None
        reply, fault, reached = None, "", True
        try:
            reply = self._client.execute_command(command, *words)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:  # the server answers, and says no: OOM, WRONGTYPE
            fault = type(error).__name__
        except (redis.RedisError, UnicodeError) as error:  # the latter of names that are none
            fault, reached = type(error).__name__, False
        with self._lock:
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._pause_s = 0.0 if reached else pause_s
            self._until = self._clock() + self._pause_s
            changed, self._told[command] = fault != self._told[command], fault
        if changed and fault:
            facts = {"event": "cache_fails"}
            said = "the cache fails at %s: %s; answers are computed"
            log.warning(said, command, fault, extra={"facts": facts})
        elif changed:
            log.info("the cache is back at %s", command, extra={"facts": {"event": "cache_back"}})
        return reply

    def _resting(self) -> bool:
        """Say whether it is let alone now; after a pause it is for all but the one who asks."""
        with self._lock:
            now = self._clock()
            if self._pause_s and now >= self._until:
                self._until = now + self._pause_s
                return False
            return now < self._until
