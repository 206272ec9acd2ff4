"""The one thread of a process that works on its embedded queue; it lives while there is work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from macule.errors import Unavailable
from macule.jobs import Order
from macule.jobs.embedded.sqlite_queue import Sqlite

T = TypeVar("T")
log = logging.getLogger("macule")
LEAST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0  # while memory, the model or the disk is short

Work = Callable[[Order, bytes], tuple[str, Mapping[str, Any]]]


class Runner:
    """Takes jobs from *queue* one after the other and ends each with what *work* makes of it."""

    def __init__(self, queue: Sqlite, work: Work) -> None:
        self._queue = queue
        self._work = work
        self._lock = Lock()
        self._thread: Thread | None = None
        self._woken = False
        self._stopping = Event()

    def wake(self) -> None:
        """Say that there may be work."""
        with self._lock:
            self._woken = True
            if self._thread is None and not self._stopping.is_set():
                self._thread = Thread(target=self._run, name="jobs", daemon=True)
                self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Finish the job at hand within *wait_s*; if it goes on, the next start takes it up."""
        self._stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(wait_s)

    def _run(self) -> None:
        while self._more():
            while not self._stopping.is_set() and self._patiently(self._one):
                pass

    def _more(self) -> bool:
        """Is there a reason to look again? If not, this thread ends, and `wake` makes another."""
        with self._lock:
            if self._woken and not self._stopping.is_set():
                self._woken = False
                return True
            self._thread = None
            return False

    def _one(self) -> bool:
        """Work on one job; return whether there was any."""
        taken = self._queue.take()
        if taken is None:
            self._queue.compact()
            return False
        job, image = taken
        try:
            status, outcome = self._work(job.order, image)
        except Unavailable:
            self._patiently(lambda: self._queue.give_back(job.id))
            raise
        del taken, image  # not held while the next is waited for
        self._patiently(lambda: self._queue.finish(job.id, status, outcome))
        return True

    def _patiently(self, action: Callable[[], T]) -> T | None:
        """Try again what is unavailable, after pauses that grow, until this process is to end."""
        pause_s = LEAST_PAUSE_S
        while True:
            try:
                return action()
            except Unavailable as error:
                log.warning("jobs wait: %s", error)
            if self._stopping.wait(pause_s):
                return None
            pause_s = min(MOST_PAUSE_S, pause_s * 2)
