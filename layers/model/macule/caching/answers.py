"""Cache of answers by content, in memory or in Redis, for the same bytes and the same model.

No image is stored: a key is a digest, a value is JSON.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

from macule import __version__, settings
from macule.observability import metrics

if TYPE_CHECKING:
    from macule.caching.redis_client import RedisCache

    AnswerCache: TypeAlias = "MemoryCache | RedisCache"

MB = 2**20
FORMAT_VERSION = 1  # of keys and values; versions do not read each other's entries
MAX_VALUE_BYTES = 3 * 2**17  # answers with a map have 80 to 180 kB, of a noise image 350 kB
ROW_OVERHEAD_BYTES = 640  # key, time and table entry of a row; a test measures it


def cache_key(image_sha256: str, card: Mapping[str, Any], *options: int | None) -> str:
    """Return the cache key of an answer: a digest of everything that determines it.

    Args:
      card: the whole model card, with the file's sha256, the thresholds and the names.
      options: of the caller and the operator.
    """
    from hashlib import sha256

    parts = [FORMAT_VERSION, __version__, image_sha256, card, options]
    digest = sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"macule:{FORMAT_VERSION}:answer:{digest}"


class MemoryCache:
    """LRU cache of this process with expiry.

    Args:
      max_bytes: of all rows together, with Python's overhead.
      clock: monotonic seconds.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.held_bytes = 0
        self._max_bytes, self._ttl_s, self._clock = max_bytes, ttl_s, clock
        self._lock = Lock()
        self._enabled = True
        self._rows: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """Return the value of *key* if it has not expired."""
        with self._lock:
            expires_at, value = self._rows.get(key, (float("-inf"), b""))
            if self._clock() >= expires_at:
                self._drop(key)
                return None
            self._rows.move_to_end(key)
            return value

    def put(self, key: str, value: bytes) -> None:
        """Store *value*, unless it is too large or the cache is disabled."""
        with self._lock:
            self._drop(key)
            size = ROW_OVERHEAD_BYTES + len(value)
            if not self._enabled or size > min(MAX_VALUE_BYTES, self._max_bytes):
                return
            self._rows[key] = self._clock() + self._ttl_s, value
            self.held_bytes += size
            while self.held_bytes > self._max_bytes:
                self._drop(next(iter(self._rows)))

    def set_enabled(self, enabled: bool) -> None:
        """Enable the cache, or empty it and store nothing until it is enabled again."""
        with self._lock:
            self._enabled = enabled
            if not enabled:
                self._rows.clear()
                self.held_bytes = 0

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        self.held_bytes -= ROW_OVERHEAD_BYTES + len(row[1]) if row else 0


@cache
def current() -> AnswerCache | None:
    """Return the answer cache of this process; None if the settings disable it."""
    chosen = settings.current()
    if chosen.redis_url:
        from macule.caching.redis_client import RedisCache

        return RedisCache(chosen.redis_url, chosen.cache_ttl_s, MAX_VALUE_BYTES)
    if not chosen.cache_mb:
        return None
    memory = MemoryCache(chosen.cache_mb * MB, chosen.cache_ttl_s)
    metrics.register_gauge("macule_cache_bytes", lambda: memory.held_bytes)
    return memory
