"""The thread of the embedded queue: it starts with work, ends without, and retries."""

import itertools
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from macule.errors import Busy
from macule.jobs import FAILED, SUCCEEDED, JobOptions
from macule.jobs.embedded import runner
from macule.jobs.embedded.runner import Runner
from macule.jobs.embedded.sqlite_queue import SqliteQueue
from support import service

until = partial(service.until, wait_s=10)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MIN_PAUSE_S", 0.01)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path, 60, 100)
    yield queue
    until(lambda: not jobs_thread())  # it would ask a closed queue again and again
    queue.close()


def jobs_thread() -> bool:
    return any(thread.name == "jobs" for thread in threading.enumerate())


def test_it_runs_while_there_is_work(queue: SqliteQueue) -> None:
    """One thread runs all waiting jobs one at a time, and then ends."""
    order: list[bytes] = []

    def work(order_: JobOptions, image: bytes) -> tuple[str, dict[str, Any]]:
        order.append(image)
        return SUCCEEDED, {"image": image.decode()}

    worker = Runner(queue, work)
    made = [queue.put(JobOptions(), str(n).encode()) for n in range(20)]
    for _ in range(20):
        worker.wake()
    until(lambda: queue.waiting() == 0 and not jobs_thread())
    queue.put(JobOptions(), b"later")
    worker.wake()
    until(lambda: queue.waiting() == 0 and not jobs_thread())

    assert order == [*(str(n).encode() for n in range(20)), b"later"]
    assert queue.get(made[7].id, "").outcome == {"image": "7"}


def test_a_lack_of_memory_is_retried(queue: SqliteQueue) -> None:
    """A job without memory is retried any number of times, and no attempt counts."""
    tries = []

    def work(order: JobOptions, image: bytes) -> tuple[str, dict[str, Any]]:
        tries.append(time.monotonic())
        if len(tries) < 5:
            raise Busy("Memory has run short.")
        return SUCCEEDED, {}

    job = queue.put(JobOptions(), b"image")
    Runner(queue, work).wake()
    until(lambda: queue.get(job.id, "").ended)
    pauses = [after - before for before, after in itertools.pairwise(tries)]

    assert queue.get(job.id, "").status == SUCCEEDED
    assert queue.get(job.id, "").attempts == 1
    assert pauses[-1] > pauses[0]


def test_a_result_is_written_once_the_disk_has_space(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the end of a job is retried; the work is not repeated."""
    job, worked, calls = queue.put(JobOptions(), b"image"), [], []

    def work(order: JobOptions, image: bytes) -> tuple[str, dict[str, Any]]:
        worked.append(image)
        return FAILED, {"status": 422}

    def full(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) in (2, 3):  # the first is the start of the job
            raise OSError("full")

    queue.on_change(full, lambda: None)
    Runner(queue, work).wake()
    until(lambda: queue.get(job.id, "").ended)

    assert worked == [b"image"]
    assert len(calls) == 4


def test_stop_lets_the_running_job_end(queue: SqliteQueue) -> None:
    """The running job ends, waiting jobs stay, and nothing new starts."""
    begun, release = threading.Event(), threading.Event()

    def work(order: JobOptions, image: bytes) -> tuple[str, dict[str, Any]]:
        begun.set()
        release.wait(10)
        return SUCCEEDED, {}

    worker = Runner(queue, work)
    first, second = (queue.put(JobOptions(), b"image") for _ in range(2))
    worker.wake()
    begun.wait(10)
    threading.Timer(0.1, release.set).start()
    worker.stop(10)
    worker.wake()

    assert queue.get(first.id, "").status == SUCCEEDED
    assert queue.get(second.id, "").status == "starting"
    assert not jobs_thread()
