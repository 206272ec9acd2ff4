"""Answers by content: what was found in the same bytes by the same model, in memory or in Redis.

No image is kept: a key is a digest, a value what its answer says.
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
from macule.errors import BadSetting
from macule.observability import metrics

if TYPE_CHECKING:
    from macule.caching.redis_client import Answers

    Store: TypeAlias = "Memory | Answers"

MB = 2**20
FORM = 1  # of keys and values; another finds nothing of this one
MOST_VALUE_BYTES = 3 * 2**17  # answers with a map have 80 to 180 kB, of noise 350
ROW_BYTES = 640  # a row's key, time and places in the table beside its value; a test measures it


def key(image_sha256: str, card: Mapping[str, Any], *asked: int | None) -> str:
    """Name an answer by all that shapes it.

    *card*: the model's whole card, which has its file's sha256, its thresholds and its names.
    *asked*: what the caller and the operator chose.
    """
    from hashlib import sha256

    parts = [FORM, __version__, image_sha256, card, asked]
    return f"macule:{FORM}:answer:{sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}"


class Memory:
    """Answers of this process, the longest unasked going first.

    Args:
      most_bytes: of all rows together, with what Python takes for them.
      clock: seconds that never go back.
    """

    def __init__(
        self, most_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.held_bytes = 0
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
            self.held_bytes += size
            while self.held_bytes > self._most_bytes:
                self._drop(next(iter(self._rows)))

    def allow(self, keeps: bool) -> None:
        """Keep answers, or give all of them up and keep none until this is called again."""
        with self._lock:
            self._allowed = keeps
            if not keeps:
                self._rows.clear()
                self.held_bytes = 0

    def _drop(self, key: str) -> None:
        row = self._rows.pop(key, None)
        self.held_bytes -= ROW_BYTES + len(row[1]) if row else 0


@cache
def current() -> Store | None:
    """Return where this process keeps answers; None where it keeps none."""
    chosen = settings.current()
    if chosen.redis_url:
        try:
            from macule.caching.redis_client import Answers
        except ModuleNotFoundError as error:
            from macule import extras

            raise BadSetting(extras.install_message("REDIS_URL", "redis")) from error
        return Answers(chosen.redis_url, chosen.cache_ttl_s, MOST_VALUE_BYTES)
    if not chosen.cache_mb:
        return None
    kept = Memory(chosen.cache_mb * MB, chosen.cache_ttl_s)
    metrics.register_gauge("macule_cache_bytes", lambda: kept.held_bytes)
    return kept
