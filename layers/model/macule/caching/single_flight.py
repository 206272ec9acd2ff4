"""Requests for the same thing at once: one computes, the others wait for what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from threading import Event, Lock
from typing import Any, Generic, TypeVar

from macule.errors import Busy

T = TypeVar("T")


class Flight(Generic[T]):
    """What one request computes; *image* is held once for all who may have to compute it anew."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.outcome: T | None = None
        self.landed = Event()

    def wait(self, timeout_s: float) -> T | None:
        """Return the outcome; None where there is none, and whoever waited has to try for itself.

        Another's failure need not be one's own: it may have waited longer than oneself.
        Raises: Busy after *timeout_s*.
        """
        if not self.landed.wait(timeout_s):
            raise Busy("The same image is being classified for another request. Try again.")
        return self.outcome


class Flights(Generic[T]):
    """The flights of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_key: dict[Hashable, Flight[T]] = {}

    def join(self, key: Hashable, image: bytes, job: Callable[[], T]) -> T | Flight[T]:
        """Run *job* and return its outcome; return the flight where one of this key is on its way.

        A job that keeps its outcome does so before it ends: whoever comes then finds it kept.
        """
        with self._lock:
            other = self._by_key.get(key)
            if other:
                return other
            flight = self._by_key[key] = Flight(image)
        try:
            flight.outcome = job()
            return flight.outcome
        finally:
            with self._lock:
                del self._by_key[key]
            flight.landed.set()


@cache
def current() -> Flights[Any]:
    """Return this process's flights."""
    return Flights()
