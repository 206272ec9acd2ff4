"""Answers by content: what was found in the same bytes by the same model, in memory or in Redis.

No image is kept: a key is a digest, a value what its answer says.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import Any

from macule import __version__, resp, settings

log = logging.getLogger("macule")

MB = 2**20
FORM = 1  # of keys and values; another finds nothing of this one
MOST_VALUE_BYTES = 2**18  # an answer with its map has 20 to 200 kB
ROW_BYTES = 640  # a row's key, time and places in the table beside its value; a test measures it
TIMEOUT_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


def key(image_sha256: str, card: Mapping[str, Any], *asked: int | None) -> str:
    """Name an answer by all that shapes it.

    *card*: the model's whole card, which has its file's sha256, its thresholds and its names.
    *asked*: what the caller and the operator chose.
    """
    from hashlib import sha256

    parts = [FORM, __version__, image_sha256, card, asked]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Memory:
    """Answers of this process, the longest unasked going first.

    Args:
      most_bytes: of all rows together, with what Python takes for them.
      clock: seconds that never go back.
    """

    def __init__(
        self, most_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.size = 0
        self._most_bytes = most_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = Lock()
        self._allowed = True
        self._rows: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """Return what is kept and not yet too old."""
        with self._lock:
            until, value = self._rows.get(key, (float("-inf"), b""))
            if self._clock() >= until:
                self._drop(key)
                return None
            self._rows.move_to_end(key)
            return value

    def put(self, key: str, value: bytes) -> None:
        """Keep *value*, unless it is too large or nothing may be kept."""
        with self._lock:
            self._drop(key)
            size = ROW_BYTES + len(value)
            if not self._allowed or size > min(MOST_VALUE_BYTES, self._most_bytes):
                return
            self._rows[key] = self._clock() + self._ttl_s, value
            self.size += size
            while self.size > self._most_bytes:
                self._drop(next(iter(self._rows)))

    def allow(self, keeps: bool) -> None:
        """Keep answers, or give all of them up and keep none until this is called again."""
        with self._lock:
            self._allowed = keeps
            if not keeps:
                self._rows.clear()
                self.size = 0

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        self.size -= ROW_BYTES + len(row[1]) if row else 0


class Redis:
    """Answers of all instances, in Redis or Valkey. Where it fails nothing is kept, and no more.

    One that does not answer is let alone, ever longer; then one request tries it.
    """

    size = 0  # in this process

    def __init__(self, url: str, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = resp.Client(resp.address(url), TIMEOUT_S, MOST_VALUE_BYTES)
        self._ttl_ms = int(ttl_s * 1e3)
        self._clock = clock
        self._lock = Lock()
        self._pause_s = self._until = 0.0
        self._told = {"GETRANGE": "", "SET": ""}

    def get(self, key: str) -> bytes | None:
        """Return what is kept, at most MOST_VALUE_BYTES of it, whoever put it there."""
        found = self._ask("GETRANGE", _name(key), b"0", b"%d" % (MOST_VALUE_BYTES - 1))
        return found if isinstance(found, bytes) and found else None

    def put(self, key: str, value: bytes) -> None:
        """Keep *value*, unless it is too large."""
        if len(value) <= MOST_VALUE_BYTES:
            self._ask("SET", _name(key), value, b"PX", b"%d" % self._ttl_ms)

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


@cache
def current() -> Memory | Redis | None:
    """Return where this process keeps answers; None where it keeps none."""
    chosen = settings.current()
    if chosen.redis_url:
        return Redis(chosen.redis_url, chosen.cache_ttl_s)
    return Memory(chosen.cache_mb * MB, chosen.cache_ttl_s) if chosen.cache_mb else None


def _name(key: str) -> bytes:
    return f"macule:{FORM}:answer:{key}".encode()
