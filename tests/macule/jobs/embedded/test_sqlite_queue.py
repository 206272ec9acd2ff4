"""The embedded queue: states go forward, jobs are neither lost nor repeated, images are deleted."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from macule.errors import (
    JobEnded,
    JobExpired,
    KeyInUse,
    KeyReused,
    NoSuchJob,
    QueueFull,
    QueueUnavailable,
)
from macule.inference.options import PredictOptions
from macule.jobs import (
    CANCELED,
    EVENTS,
    FAILED,
    MAX_ATTEMPTS,
    PROCESSING,
    STARTING,
    SUCCEEDED,
    JobOptions,
    parse_options,
    serialize_options,
)
from macule.jobs.embedded.database import ID_TTL_S
from macule.jobs.embedded.sqlite_queue import SqliteQueue

IMAGE = b"what nobody else may see" * 100
ANSWER = {"decision": "classified", "names": "Nốt ruồi"}


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "data", 60, 5, clock)
    yield queue
    queue.close()


def run_and_die(folder: Path, code: str) -> str:
    """Run *code* on the queue in another process, which dies as if killed."""
    begin = (
        "import os, sys; from pathlib import Path; from macule.jobs import *; "
        "from macule.jobs.embedded.sqlite_queue import SqliteQueue\n"
        "queue = SqliteQueue(Path(sys.argv[1]), 60, 5000)\n"
    )
    command = [sys.executable, "-c", f"{begin}{code}\nsys.stdout.flush(); os._exit(9)", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_job_goes_forward_once(queue: SqliteQueue, clock: Clock) -> None:
    """It starts, runs and succeeds; its result is unchanged, its times are the clock's."""
    made = queue.put(JobOptions(PredictOptions(3, True)), IMAGE)
    clock.now += 1
    taken = queue.take()
    assert taken
    clock.now += 1

    assert (made.status, taken.job.status, taken.image) == (STARTING, PROCESSING, IMAGE)
    assert taken.job.options == JobOptions(PredictOptions(3, True))
    assert queue.finish(made.id, SUCCEEDED, ANSWER)
    ended = queue.get(made.id, "")
    assert (ended.status, ended.outcome) == (SUCCEEDED, ANSWER)
    assert (ended.started_at or 0) - ended.created_at == 1
    assert (ended.ended_at or 0) - ended.created_at == 2
    assert not queue.finish(made.id, FAILED, {})
    assert queue.get(made.id, "") == ended
    assert queue.take() is None


def test_jobs_of_an_older_version_can_be_read() -> None:
    """Every option is stored; those that an older version did not know have their defaults."""
    options = JobOptions(PredictOptions(3, True, 4, 90), "https://a.example/", EVENTS)
    old = json.dumps([3, True, "https://a.example/", EVENTS, ""])

    assert parse_options(serialize_options(options), "ann") == options._replace(owner="ann")
    assert parse_options(old, "") == options._replace(predict=PredictOptions(3, True))


def test_jobs_are_taken_in_order(queue: SqliteQueue) -> None:
    """Jobs are taken in the order in which they were added."""
    made = [queue.put(JobOptions(), IMAGE).id for _ in range(4)]

    assert [taken.job.id for taken in iter(queue.take, None)] == made


def test_cancel_wins_over_a_worker(queue: SqliteQueue) -> None:
    """A job canceled while it runs stays canceled, and cannot be canceled twice."""
    job = queue.put(JobOptions(), IMAGE)
    queue.take()

    assert queue.cancel(job.id, "").status == CANCELED
    assert not queue.finish(job.id, SUCCEEDED, ANSWER)
    assert queue.get(job.id, "").outcome is None
    with pytest.raises(JobEnded):
        queue.cancel(job.id, "")


def test_a_job_belongs_to_its_owner(queue: SqliteQueue) -> None:
    """Another key gets 404, as for an unknown job."""
    job = queue.put(JobOptions(owner="clinic"), IMAGE)

    assert queue.get(job.id, "clinic").options.owner == "clinic"
    for ask in (queue.get, queue.cancel):
        with pytest.raises(NoSuchJob):
            ask(job.id, "other")


def test_a_result_expires(queue: SqliteQueue, clock: Clock) -> None:
    """After its time to live it is 410, and a day later 404."""
    job = queue.put(JobOptions(), IMAGE)
    queue.take()
    queue.finish(job.id, SUCCEEDED, ANSWER)
    clock.now += 61
    with pytest.raises(JobExpired):
        queue.get(job.id, "")
    with pytest.raises(NoSuchJob):
        queue.get(job.id, "other")
    clock.now += ID_TTL_S + 1
    with pytest.raises(NoSuchJob):
        queue.get(job.id, "")


def test_a_waiting_job_does_not_expire(queue: SqliteQueue, clock: Clock) -> None:
    """Only finished jobs expire."""
    job = queue.put(JobOptions(), IMAGE)
    clock.now += 1e6

    assert queue.get(job.id, "").status == STARTING


@pytest.mark.parametrize("jump", [-1e7, 1e7])
def test_a_clock_jump_loses_no_job(queue: SqliteQueue, clock: Clock, jump: float) -> None:
    """Jobs from before and after a jump run, and their results exist."""
    jobs = [queue.put(JobOptions(), IMAGE)]
    clock.now += jump
    jobs.append(queue.put(JobOptions(), IMAGE))
    for _ in jobs:
        taken = queue.take()
        assert taken
        queue.finish(taken.job.id, SUCCEEDED, ANSWER)

    assert [queue.get(job.id, "").status for job in jobs] == [SUCCEEDED] * 2


def test_an_idempotency_key_makes_one_job(queue: SqliteQueue) -> None:
    """A key is rejected while its job runs, then gives that job; other owners can use it."""
    job = queue.put(JobOptions(), IMAGE, "key", "print")
    with pytest.raises(KeyInUse) as refused:
        queue.put(JobOptions(), IMAGE, "key", "print")
    assert refused.value.figures == {"prediction": job.id}
    with pytest.raises(KeyReused):
        queue.put(JobOptions(), b"another", "key", "another")
    assert queue.put(JobOptions(owner="other"), IMAGE, "key", "print").id != job.id
    queue.take()
    queue.finish(job.id, SUCCEEDED, ANSWER)

    assert queue.put(JobOptions(), IMAGE, "key", "print").outcome == ANSWER


def test_a_full_queue_rejects_jobs(queue: SqliteQueue) -> None:
    """Above its limit a job is rejected; a finished job frees a place."""
    made = [queue.put(JobOptions(), IMAGE) for _ in range(5)]
    with pytest.raises(QueueFull) as refused:
        queue.put(JobOptions(), IMAGE)
    queue.cancel(made[0].id, "")

    assert refused.value.figures == {"waiting": 5}
    assert queue.put(JobOptions(), IMAGE).status == STARTING


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_an_image_is_deleted_with_the_end_of_its_job(
    queue: SqliteQueue, tmp_path: Path, end: str
) -> None:
    """Afterwards no file of the queue contains a trace of it."""
    job = queue.put(JobOptions(), IMAGE)
    queue.take()

    def traces() -> list[str]:
        files = (tmp_path / "data").iterdir()
        return [path.name for path in files if IMAGE[:24] in path.read_bytes()]

    assert traces()
    if end == "finish":
        queue.finish(job.id, FAILED, {})
    else:
        queue.cancel(job.id, "")
    assert traces() == []


def test_a_dead_process_loses_its_job(queue: SqliteQueue, tmp_path: Path) -> None:
    """Its job waits again for the next process, which gets the number of attempts."""
    job = queue.put(JobOptions(), IMAGE)
    died = run_and_die(tmp_path / "data", "print(queue.take().job.id)")
    taken = queue.take()

    assert died.strip() == job.id
    assert taken
    assert taken.job.id == job.id
    assert taken.job.attempts == 2
    assert queue.finish(job.id, SUCCEEDED, ANSWER)


def test_a_living_process_keeps_its_job(queue: SqliteQueue, tmp_path: Path) -> None:
    """No other process can take or end its job."""
    job = queue.put(JobOptions(), IMAGE)
    queue.take()
    code = f"print(queue.take(), queue.finish({job.id!r}, SUCCEEDED, {{}}))"

    assert run_and_die(tmp_path / "data", code).strip() == "None False"
    assert queue.get(job.id, "").status == PROCESSING


def test_a_job_that_kills_fails_with_its_reason(queue: SqliteQueue, tmp_path: Path) -> None:
    """After three deaths it fails with the reason; a returned job counts no death."""
    job = queue.put(JobOptions(), IMAGE)
    for _ in range(5):
        assert queue.take()
        queue.requeue(job.id)
    for _ in range(MAX_ATTEMPTS):
        assert run_and_die(tmp_path / "data", "print(queue.take().job.id)").strip() == job.id

    assert queue.take() is None
    failed = queue.get(job.id, "")
    assert failed.status == FAILED
    assert failed.outcome
    assert failed.outcome["type"] == "urn:macule:problem:worker-died"
    assert "died 3 times" in failed.outcome["detail"]


def test_no_two_processes_take_one_job(tmp_path: Path) -> None:
    """Four processes at once take 200 jobs, each once."""
    folder = tmp_path / "data"
    run_and_die(folder, "[queue.put(JobOptions(), b'image') for _ in range(200)]")
    code = (
        "while taken := queue.take():\n"
        "    queue.finish(taken.job.id, SUCCEEDED, {}); print(taken.job.id)\n"
    )
    begin = (
        "import sys; from pathlib import Path; from macule.jobs import *; "
        "from macule.jobs.embedded.sqlite_queue import SqliteQueue\n"
        "queue = SqliteQueue(Path(sys.argv[1]), 60, 5000)\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", begin + code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    taken = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]

    assert len(taken) == len(set(taken)) == 200


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    """A job that cannot be written is rejected; earlier jobs and the queue remain."""
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from macule.errors import QueueUnavailable\n"
        "first = queue.put(JobOptions(), b'x' * 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        "try:\n    queue.put(JobOptions(), b'x' * 5_000_000)\n"
        "except QueueUnavailable as error:\n    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "print(queue.get(first.id, '').status, queue.put(JobOptions(), b'y' * 5_000_000).status)\n"
    )
    output = run_and_die(tmp_path / "data", code).splitlines()

    assert output[0].startswith("The disk of the queue")
    assert output[1] == "starting starting"


@pytest.mark.parametrize("broken", ["garbage", "folder"])
def test_a_queue_that_cannot_be_opened_is_unavailable(tmp_path: Path, broken: str) -> None:
    """An invalid file or a folder in its place is 503 with a reason, without leaks."""
    folder = tmp_path / "data"
    folder.mkdir()
    if broken == "garbage":
        (folder / "jobs.sqlite3").write_bytes(b"no database at all" * 1000)
    else:
        (folder / "jobs.sqlite3").mkdir()

    opened = psutil.Process().num_fds()
    for _ in range(9):
        with pytest.raises(QueueUnavailable, match="DATA_DIR"):
            SqliteQueue(folder, 60, 5)

    assert psutil.Process().num_fds() < opened + 9


def test_files_are_private(queue: SqliteQueue, tmp_path: Path) -> None:
    """Other users cannot read the files."""
    queue.put(JobOptions(), IMAGE)
    modes = {path.stat().st_mode & 0o077 for path in [tmp_path / "data", *tmp_path.rglob("*")]}

    assert modes == {0}


def test_a_change_and_its_callback_are_one_transaction(queue: SqliteQueue) -> None:
    """If the callback of a start or an end fails, the change is rolled back."""
    calls = []

    def tell(database: sqlite3.Connection, job: object) -> None:
        calls.append(job)
        if len(calls) == 2:
            raise OSError("no room for a note")

    queue.on_change(tell, lambda: None)
    job = queue.put(JobOptions(), IMAGE)
    queue.take()
    with pytest.raises(QueueUnavailable):
        queue.finish(job.id, SUCCEEDED, ANSWER)

    assert queue.get(job.id, "").status == PROCESSING
    assert queue.finish(job.id, SUCCEEDED, ANSWER)
    assert len(calls) == 3
