"""The thread that runs the jobs of the embedded queue; it exists only while there are jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from macule.errors import Unavailable
from macule.jobs import JobOptions
from macule.jobs.embedded.sqlite_queue import SqliteQueue

T = TypeVar("T")
log = logging.getLogger("macule")
MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # while memory, the model or the disk is unavailable

RunJob = Callable[[JobOptions, bytes], tuple[str, Mapping[str, Any]]]


class Runner:
    """Takes jobs from *queue* one by one, and ends each with the result of *run_job*."""

    def __init__(self, queue: SqliteQueue, run_job: RunJob) -> None:
        self._queue = queue
        self._run_job = run_job
        self._lock = Lock()
        self._thread: Thread | None = None
        self._woken = False
        self._stopping = Event()

    def wake(self) -> None:
        """Report that there may be jobs; start the thread if needed."""
        with self._lock:
            self._woken = True
            if self._thread is None and not self._stopping.is_set():
                self._thread = Thread(target=self._run, name="jobs", daemon=True)
                self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Wait up to *wait_s* for the current job; else the next process retries it."""
        self._stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(wait_s)

    def _run(self) -> None:
        while self._has_work():
            while not self._stopping.is_set() and self._with_retries(self._run_next):
                pass

    def _has_work(self) -> bool:
        """Return whether `wake` was called since; if not, this thread ends."""
        with self._lock:
            if self._woken and not self._stopping.is_set():
                self._woken = False
                return True
            self._thread = None
            return False

    def _run_next(self) -> bool:
        """Run one job; return whether there was one."""
        taken = self._queue.take()
        if taken is None:
            self._queue.compact()
            return False
        job, image = taken
        try:
            status, outcome = self._run_job(job.options, image)
        except Unavailable:
            self._with_retries(lambda: self._queue.requeue(job.id))
            raise
        del taken, image  # free the image before waiting for the next job
        self._with_retries(lambda: self._queue.finish(job.id, status, outcome))
        return True

    def _with_retries(self, action: Callable[[], T]) -> T | None:
        """Retry *action* while it raises Unavailable, with growing pauses, until `stop`."""
        pause_s = MIN_PAUSE_S
        while True:
            try:
                return action()
            except Unavailable as error:
                log.warning("jobs wait: %s", error)
            if self._stopping.wait(pause_s):
                return None
            pause_s = min(MAX_PAUSE_S, pause_s * 2)
