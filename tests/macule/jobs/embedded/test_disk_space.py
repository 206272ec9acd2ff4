"""The embedded queue on a small disk: accepted jobs end, even if others fill the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from macule.errors import CannotFit, QueueFull
from macule.inference import activation_maps
from macule.inference.options import PredictOptions
from macule.jobs import EVENTS, SUCCEEDED, JobOptions, reserved_bytes
from macule.jobs.embedded.sqlite_queue import SqliteQueue
from support.mounts import mounts
from support.service import ROOT

MB = 2**20
MAP = JobOptions(PredictOptions(None, True), "https://caller.example/" + "x" * 1900, EVENTS)
LONGEST = {"overlay": "data:" + "x" * activation_maps.MAX_CHARACTERS}  # the longest PNG of a map
BEGIN = """
import json, os, sys, threading, time
from pathlib import Path
sys.path.insert(0, "tests")
from macule.errors import Unavailable
from macule.jobs import document
from macule.jobs.webhooks import outbox
from macule.jobs.embedded.sqlite_queue import SqliteQueue
from support.mounts import fill
from test_disk_space import LONGEST, MAP, SUCCEEDED

folder = Path(sys.argv[1])

def opened(ttl_s=60, clock=time.time):
    queue = SqliteQueue(folder, ttl_s, 100_000, clock, max_bytes=2**30)
    with queue.transaction() as database:
        outbox.create_table(database)
    def tell(database, job):
        event = "prediction." + ("completed" if job.ended else "started")
        outbox.add(database, job.options, event, document(job), time.time())
    queue.on_change(tell, lambda: None)
    return queue

def offer(queue, image):
    try:
        return queue.put(MAP, image).id
    except Unavailable as error:
        return error.figures

def work(queue):
    taken = queue.take()
    return bool(taken and queue.finish(taken.job.id, SUCCEEDED, LONGEST))

def answer(**facts):
    print(json.dumps(facts), flush=True)
    os._exit(9)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def on_a_small_disk(disk: Path, *codes: str) -> list[dict[str, Any]]:
    """Run *codes* one after the other, each in a process that dies, on one disk of 12 MB."""
    disk.mkdir()
    files = []
    for place, code in enumerate(codes):
        file = disk.parent / f"{place}.py"
        file.write_text(BEGIN + code)
        files.append(f"{sys.executable} {file} {disk} || test $? = 9")
    script = "\n".join(["set -e", f"mount -t tmpfs -o size=12m tmpfs {disk}", *files])
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/macule/jobs/embedded")])
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@mounts
@pytest.mark.parametrize("size", [1, 200_000, 2_000_000])
def test_accepted_jobs_end_on_a_full_disk(disk: Path, size: int) -> None:
    """If others fill the disk and the process dies, the next process ends every job.

    Each has the longest possible result and two undeliverable webhooks.
    """
    accepted, ended = on_a_small_disk(
        disk,
        f"""
queue, ids = opened(), []
while isinstance(said := offer(queue, b"i" * {size}), str):
    ids.append(said)
fill(folder / "filler")
answer(ids=ids, refused=said, again=offer(queue, b"i"))
""",
        """
queue = opened()
while work(queue):
    pass
answer(waiting=queue.waiting(), webhooks=queue.undelivered())
""",
    )

    assert accepted["ids"]
    for error in (accepted["refused"], accepted["again"]):
        assert error["free_mb"] <= error["needed_mb"]
    assert (ended["waiting"], ended["webhooks"]) == (0, 2 * len(accepted["ids"]))


@mounts
def test_webhooks_are_delivered_on_a_full_disk(disk: Path) -> None:
    """The outbox records attempts and their outcome although others fill the disk."""
    (said,) = on_a_small_disk(
        disk,
        """
from macule.jobs.webhooks.delivery import DeliveryThread
from macule.jobs.webhooks.messages import Outcome
queue, sent = opened(), []
while isinstance(offer(queue, b"i"), str):
    pass
while work(queue):
    pass
waited = queue.undelivered()
fill(folder / "filler")

def send(url, message_id, body):
    sent.append(message_id)
    return Outcome("retry" if len(sent) == 1 else "delivered")

delivery = DeliveryThread(queue.transaction, folder, queue.token, send, lambda attempts: 0.01)
delivery.start()
end = time.monotonic() + 20
while queue.undelivered() and time.monotonic() < end:
    time.sleep(0.01)
answer(waited=waited, left=queue.undelivered(), sent=len(sent), once=len(set(sent)))
""",
    )

    assert said["waited"] > 10
    assert said["left"] == 0
    assert (said["sent"], said["once"]) == (said["waited"] + 1, said["waited"])


@mounts
def test_no_job_is_lost_among_hundreds(disk: Path) -> None:
    """Each of 120 jobs with maps is rejected with figures or ends, while results expire."""
    (said,) = on_a_small_disk(
        disk,
        """
queue, over, said = opened(5, lambda: 100 * time.time()), threading.Event(), []
def worker():
    while work(queue) or not over.is_set():
        pass
thread = threading.Thread(target=worker)
for n in range(120):
    said.append(offer(queue, bytes([n]) * (2000 * n)))
    if thread.ident is None and not isinstance(said[-1], str):
        thread.start()
over.set()
thread.join()
accepted = sum(isinstance(one, str) for one in said)
answer(accepted=accepted, refused=120 - accepted, waiting=queue.waiting())
""",
    )

    assert said["accepted"] > 30  # more than fit at once
    assert said["refused"] > 0
    assert said["waiting"] == 0


@mounts
def test_expired_results_free_space(disk: Path) -> None:
    """A disk full of results takes new jobs after all results have expired."""
    (said,) = on_a_small_disk(
        disk,
        """
now = [1e9]
queue, ended = opened(60, lambda: now[0]), 0
while isinstance(offer(queue, b"i"), str):
    ended += work(queue)
fill(folder / "filler")
full = offer(queue, b"i")
now[0] += 100
answer(ended=ended, full=full, after=offer(queue, b"i"))
""",
    )

    assert said["ended"] > 10
    assert said["full"]["needed_mb"]
    assert isinstance(said["after"], str)


def test_bytes_are_bounded_including_results(tmp_path: Path) -> None:
    """Above MAX_JOBS_MB a job is rejected with figures and the time when space is freed."""
    queue, half = SqliteQueue(tmp_path, 500, 1000, max_bytes=6 * MB), bytes(MB // 2)

    def fill_queue() -> QueueFull:
        """Fill the queue, and return the error."""
        for _ in range(12):
            try:
                queue.put(JobOptions(), half)
            except QueueFull as error:
                return error
        raise AssertionError("there is no bound")

    with pytest.raises(CannotFit) as never:
        queue.put(JobOptions(), bytes(6 * MB))
    waits = kept = fill_queue()
    while kept.figures["waiting"]:
        while taken := queue.take():
            queue.finish(taken.job.id, SUCCEEDED, {"words": "x" * len(half)})
        kept = fill_queue()

    assert never.value.figures["limit_mb"] == 6
    assert waits.headers() == {"Retry-After": "5"}
    assert 490 < int(kept.headers()["Retry-After"]) <= 500
    assert queue.usage().bytes <= queue.usage().max_bytes == 6 * MB


def test_the_log_is_bounded_if_only_webhooks_change(tmp_path: Path) -> None:
    """Writes of the outbox thread, for hours, do not make the log longer."""
    queue = SqliteQueue(tmp_path, 500, 1000)
    with queue.transaction() as database:
        database.execute("CREATE TABLE others (at REAL)")
    for number in range(400):
        with queue.transaction() as database:
            database.execute("INSERT INTO others VALUES (?)", (number,))

    assert (tmp_path / "jobs.sqlite3-wal").stat().st_size < 2 * MB


def test_disk_space_is_returned(tmp_path: Path) -> None:
    """An idle file keeps a few MB for the next jobs, and results stay readable."""
    queue = SqliteQueue(tmp_path, 500, 1000)
    made = [queue.put(JobOptions(), bytes(MB)).id for _ in range(8)]
    before = sum(path.stat().st_size for path in tmp_path.iterdir())
    for job_id in made:
        queue.take()
        queue.finish(job_id, SUCCEEDED, {"id": job_id})
    queue.compact()
    after = sum(path.stat().st_size for path in tmp_path.iterdir())

    assert before > 8 * MB
    assert after < before * 0.7
    assert all(queue.get(job_id, "").outcome == {"id": job_id} for job_id in made)


def test_a_map_and_a_webhook_are_counted() -> None:
    """A job reserves space for the longest result and its webhooks."""
    plain, mapped, told = (
        JobOptions(),
        JobOptions(PredictOptions(with_cam=True)),
        JobOptions(webhook="https://a/", events=EVENTS),
    )

    assert (
        sum(reserved_bytes(mapped).values()) - sum(reserved_bytes(plain).values())
        == activation_maps.MAX_CHARACTERS
    )
    assert set(reserved_bytes(told)) == set(EVENTS)
    assert sum(reserved_bytes(plain, 1000).values()) > 100_000
