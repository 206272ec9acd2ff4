"""Answers by content in Redis or Valkey, for all instances; where that fails nothing is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from macule import resp

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
        self._client = resp.Client(resp.address(url), TIMEOUT_S, most_value_bytes)
        self._most_value_bytes = most_value_bytes
        self._ttl_ms = int(ttl_s * 1e3)
        self._clock = clock
        self._lock = Lock()
        self._pause_s = self._until = 0.0
        self._told = {"GETRANGE": "", "SET": ""}

    def get(self, key: str) -> bytes | None:
        """Return what is kept, at most *most_value_bytes* of it: anybody may have put it there."""
        found = self._ask("GETRANGE", key.encode(), b"0", b"%d" % (self._most_value_bytes - 1))
        return found if isinstance(found, bytes) and found else None

    def put(self, key: str, value: bytes) -> None:
        """Keep *value*, unless it is too large."""
        if len(value) <= self._most_value_bytes:
            self._ask("SET", key.encode(), value, b"PX", b"%d" % self._ttl_ms)

    def allow(self, keeps: bool) -> None:
        """Go on: this takes none of the process's memory."""

    def _ask(self, command: str, *words: bytes) -> resp.Reply:
        if self._resting():
            return None
        reply, fault, reached = None, "", True
        try:
            reply = self._client.ask(command.encode(), *words)
        except OSError as error:
            fault, reached = type(error).__name__, False
        except resp.Refused as error:
            fault = str(error)
        with self._lock:
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._pause_s = 0.0 if reached else pause_s
            self._until = self._clock() + self._pause_s
            changed, self._told[command] = fault != self._told[command], fault
        if changed and fault:
            log.warning("the cache fails at %s: %s; answers are computed", command, fault)
        elif changed:
            log.info("the cache is back at %s", command)
        return reply

    def _resting(self) -> bool:
        """Say whether it is let alone now; after a pause it is for all but the one who asks."""
        with self._lock:
            now = self._clock()
            if self._pause_s and now >= self._until:
                self._until = now + self._pause_s
                return False
            return now < self._until
