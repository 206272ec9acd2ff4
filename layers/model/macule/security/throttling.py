"""How callers without a key are paced, and how an answer leaves before the body is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from threading import Lock

from macule import settings
from macule.http.body import Body

APART_S = 0.005  # 200 a second take 8 % of a processor, nearly all of it gunicorn's
SHARE = 4  # of the threads, the one part that may wait; whoever comes then is answered at once


class Line:
    """Lets one pass each *apart_s*; the first does not wait."""

    def __init__(
        self,
        apart_s: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._apart_s, self._most = apart_s, most
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._waiting = 0
        self._next = 0.0

    def wait(self) -> None:
        """Wait for one's turn, unless too many do."""
        with self._lock:
            now = self._clock()
            if self._waiting >= self._most:
                return
            self._waiting += 1
            at, self._next = max(now, self._next), max(now, self._next) + self._apart_s
        try:
            self._sleep(at - now)
        finally:
            with self._lock:
                self._waiting -= 1


@cache
def line() -> Line:
    """Return this process's line."""
    return Line(APART_S, max(1, settings.current().threads // SHARE))


class Answer:
    """An answer that goes out before the rest of the request's body is looked at."""

    def __init__(self, answer: list[bytes], body: Body) -> None:
        self._answer, self._body = answer, body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)

    def close(self) -> None:
        """Be done with the body: a server calls this when it has sent the answer (PEP 3333)."""
        self._body.drop()
