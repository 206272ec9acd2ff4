"""Single-flight: of concurrent calls with the same key one computes, and the others wait for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from threading import Event, Lock
from typing import Any, Generic, TypeVar

from macule.errors import Busy

T = TypeVar("T")


class PendingCall(Generic[T]):
    """A call in progress; *image* is held once for all callers, which may have to compute it."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.outcome: T | None = None
        self.done = Event()

    def wait(self, timeout_s: float) -> T | None:
        """Return the outcome; None if the call failed, and the caller must compute it itself.

        Another caller's error is not passed on, as its deadline may have been earlier.
        Raises: Busy after *timeout_s*.
        """
        if not self.done.wait(timeout_s):
            raise Busy("The same image is being classified for another request. Try again.")
        return self.outcome


class SingleFlight(Generic[T]):
    """The pending calls of this process by key."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_key: dict[Hashable, PendingCall[T]] = {}

    def run_or_join(self, key: Hashable, image: bytes, job: Callable[[], T]) -> T | PendingCall[T]:
        """Run *job* and return its outcome, or return the pending call of *key* if there is one.

        A job that caches its outcome must do so before it returns; later callers then find it.
        """
        with self._lock:
            pending = self._by_key.get(key)
            if pending:
                return pending
            call = self._by_key[key] = PendingCall(image)
        try:
            call.outcome = job()
            return call.outcome
        finally:
            with self._lock:
                del self._by_key[key]
            call.done.set()


@cache
def current() -> SingleFlight[Any]:
    return SingleFlight()
