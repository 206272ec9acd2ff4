"""Real workers with a real Valkey, killed, frozen and stopped during a job."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from macule.errors import Busy
from macule.inference.options import PredictOptions
from macule.jobs import CANCELED, EVENTS, FAILED, PROCESSING, SUCCEEDED, JobOptions
from macule.jobs.broker.redis_queue import RedisQueue
from macule.memory.recycling import RecyclePolicy
from macule.server.queue_worker import Worker
from PIL import Image
from support.broker import Broker, worker
from support.images import photo, saved
from support.service import until
from support.webhook_receivers import SECRET, receiver

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "macule.cli", "worker"]
SIGNED = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true"}


@pytest.fixture(scope="module")
def large() -> bytes:
    """Draw a photo that takes more than a second."""
    return saved(Image.new("RGB", (10_000, 10_000), (200, 150, 130)), "PNG", compress_level=1)


def wait_until_started(queue: RedisQueue, job_id: str, attempts: int = 1) -> None:
    """Wait until a worker has started a job for the given number of times."""

    def attempts_reached() -> bool:
        job = queue.get(job_id, "")
        return job.status == PROCESSING and job.attempts == attempts

    until(attempts_reached)


def ended(queue: RedisQueue, *job_ids: str, wait_s: float = 20) -> None:
    until(lambda: all(queue.get(job_id, "").ended for job_id in job_ids), wait_s)


def test_two_workers_never_share_a_job(queue: RedisQueue, server: Broker) -> None:
    """Each of 60 jobs with three messages each runs once."""
    jobs = [queue.put(JobOptions(PredictOptions(top_k=1)), photo()).id for _ in range(60)]
    for message in server.client.lrange("macule:1:celery:queue", 0, -1):
        server.client.lpush("macule:1:celery:queue", message, message)
    with worker(server), worker(server):
        ended(queue, *jobs)
        until(lambda: server.client.llen("macule:1:celery:queue") == 0)

    done = [queue.get(job_id, "") for job_id in jobs]
    assert {(job.status, job.attempts) for job in done} == {(SUCCEEDED, 1)}
    assert all(len((job.outcome or {})["predictions"]) == 1 for job in done)


def test_a_killed_workers_job_is_done(queue: RedisQueue, server: Broker, large: bytes) -> None:
    """When a worker is killed during a job, another worker runs the job."""
    with worker(server) as first:
        job = queue.put(JobOptions(), large)
        wait_until_started(queue, job.id)
        first.kill()
        with worker(server):
            ended(queue, job.id)

    found = queue.get(job.id, "")
    assert (found.status, found.attempts) == (SUCCEEDED, 2)


def test_a_frozen_workers_result_is_rejected(
    queue: RedisQueue, server: Broker, large: bytes
) -> None:
    """The result of a worker that was frozen for too long is rejected."""
    with worker(server) as first:
        job = queue.put(JobOptions(), large)
        wait_until_started(queue, job.id)
        first.send_signal(signal.SIGSTOP)
        with worker(server):
            ended(queue, job.id)
            found = queue.get(job.id, "")
            first.send_signal(signal.SIGCONT)
            after = queue.put(JobOptions(), photo())
            ended(queue, after.id)
            time.sleep(1)

    assert found.attempts == 2
    assert queue.get(job.id, "") == found


def test_a_job_that_kills_workers_fails(queue: RedisQueue, server: Broker, large: bytes) -> None:
    """A job whose worker is killed three times fails; others continue."""
    job = queue.put(JobOptions(), large)
    for attempt in (1, 2, 3):
        with worker(server, lease_s=0.5) as one:
            wait_until_started(queue, job.id, attempt)
            one.kill()
    with worker(server, lease_s=0.5):
        after = queue.put(JobOptions(), photo())
        ended(queue, job.id, after.id)

    found = queue.get(job.id, "")
    assert (found.status, found.attempts) == (FAILED, 3)
    assert (found.outcome or {})["type"] == "urn:macule:problem:worker-died"
    assert json.loads(server.client.lindex("macule:1:parked", 0))["id"] == job.id
    assert queue.get(after.id, "").status == SUCCEEDED


def test_a_bad_image_fails_at_once(queue: RedisQueue, server: Broker) -> None:
    """A bad image fails at once, with the problem of POST /predict/."""
    with worker(server):
        job = queue.put(JobOptions(), photo()[:2000])
        ended(queue, job.id)

    found = queue.get(job.id, "")
    assert (found.status, found.attempts) == (FAILED, 1)
    assert {"type": "urn:macule:problem:bad-image", "status": 422}.items() <= (
        found.outcome or {}
    ).items()


def test_temporary_failures_are_retried(queue: RedisQueue) -> None:
    """Without memory or a model a job waits, which does not count as an attempt."""

    def out_of_memory(order: JobOptions, image: bytes) -> tuple[str, dict[str, str]]:
        raise Busy("not now")

    job = queue.put(JobOptions(), b"")
    for _ in range(5):
        Worker(queue, out_of_memory, RecyclePolicy(0, None, None, 0.0), 1).run_job(job.id)
    waiting = queue.get(job.id, "")
    Worker(queue, lambda *_: (SUCCEEDED, {}), RecyclePolicy(0, None, None, 0.0), 1).run_job(job.id)

    assert (waiting.status, waiting.attempts) == (PROCESSING, 0)
    assert queue.get(job.id, "").status == SUCCEEDED


def test_a_canceled_job_has_no_result(queue: RedisQueue, server: Broker, large: bytes) -> None:
    """A job canceled while it runs stays canceled, and its worker takes the next one."""
    with worker(server):
        job = queue.put(JobOptions(), large)
        wait_until_started(queue, job.id)
        queue.cancel(job.id, "")
        after = queue.put(JobOptions(), photo())
        ended(queue, after.id)

    found = queue.get(job.id, "")
    assert (found.status, found.outcome) == (CANCELED, None)


def test_the_server_may_die_and_freeze(queue: RedisQueue, server: Broker) -> None:
    """Valkey is killed, restarted, frozen and continued; each job is done once."""
    jobs = [queue.put(JobOptions(PredictOptions(top_k=1)), photo()).id for _ in range(60)]
    with worker(server), worker(server):
        until(lambda: queue.waiting() < 50)
        server.kill()
        time.sleep(0.5)
        server.start()
        until(lambda: queue.waiting() < 30)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        server.process.send_signal(signal.SIGCONT)
        ended(queue, *jobs, wait_s=40)

    assert {queue.get(job_id, "").status for job_id in jobs} == {SUCCEEDED}


def test_a_worker_stops_after_its_job(queue: RedisQueue, server: Broker, large: bytes) -> None:
    """After SIGTERM the running job ends, the next one stays, and the exit code is 0."""
    with worker(server) as one:
        job = queue.put(JobOptions(), large)
        wait_until_started(queue, job.id)
        after = queue.put(JobOptions(), photo())
        one.terminate()
        code = one.wait(20)

    found = queue.get(job.id, "")
    assert (code, found.status, found.attempts) == (0, SUCCEEDED, 1)
    assert queue.get(after.id, "").attempts == 0


def test_a_worker_that_must_stop_returns_its_job(
    queue: RedisQueue, server: Broker, large: bytes
) -> None:
    """After GRACEFUL_TIMEOUT_S the unfinished job is returned without counting an attempt."""
    # a lease longer than the stop; otherwise the sweep would take the job of a "dead" worker
    with worker(server, lease_s=30, GRACEFUL_TIMEOUT_S="1") as one:
        job = queue.put(JobOptions(), large)
        wait_until_started(queue, job.id)
        one.terminate()
        time.sleep(0.15)  # it has received the signal and is running the job
        one.send_signal(signal.SIGSTOP)
        time.sleep(1.2)  # the second is done, the job is not
        os.kill(one.pid, signal.SIGCONT)
        code = one.wait(20)
        given_back = queue.get(job.id, "")
    with worker(server):
        ended(queue, job.id)

    assert (code, given_back.status, given_back.attempts) == (0, PROCESSING, 0)
    assert queue.get(job.id, "").attempts == 1


def test_workers_deliver_webhooks(queue: RedisQueue, server: Broker) -> None:
    """Start and end are delivered once and in order, by either of two workers."""
    with receiver() as target, worker(server, **SIGNED), worker(server, **SIGNED):
        job = queue.put(JobOptions(webhook=target.url, events=EVENTS), photo())
        until(lambda: not queue.waiting() and not server.client.exists("macule:1:due"))

    events = [json.loads(call.body) for call in target.calls]
    assert [(each["type"], each["data"]["id"]) for each in events] == [
        (event, job.id) for event in EVENTS
    ]


def test_a_recycled_worker_replaces_itself(
    queue: RedisQueue, server: Broker, tmp_path: Path
) -> None:
    """`macule worker` becomes a fresh process with the same id, any number of times."""
    jobs = [queue.put(JobOptions(), photo()).id for _ in range(3)]
    log = tmp_path / "log"
    environment = {**os.environ, "BROKER_URL": server.url, "MAX_REQUESTS": "1"}
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(COMMAND, env=environment, stdout=output, stderr=output)
        stack.callback(process.wait)
        stack.callback(process.kill)
        ended(queue, *jobs)
        until(lambda: log.read_text().count(f"worker {process.pid} is replaced") == 3)
        until(lambda: log.read_text().count(f"worker {process.pid} is ready") == 4)
        process.terminate()
        code = process.wait(20)

    assert code == 0
    assert "Traceback" not in log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    events = [line.get("event") for line in lines]
    assert [events.count(kind) for kind in ("job", "recycle", "cold_start")] == [3, 3, 4]


def test_a_worker_needs_a_broker() -> None:
    """Without BROKER_URL the command says that there is no queue."""
    environment = {name: value for name, value in os.environ.items() if name != "BROKER_URL"}
    run = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (2, "")
    assert "BROKER_URL is not set" in run.stderr


@pytest.mark.memory
def test_a_worker_stays_small(queue: RedisQueue, server: Broker) -> None:
    """Under load a worker takes at most 160 MB."""
    bodies = [photo(4000, 3000), photo(4000, 3000, progressive=True)]
    with worker(server) as one:
        ended(
            queue,
            *(
                queue.put(JobOptions(PredictOptions(with_cam=True)), bodies[n % 2]).id
                for n in range(12)
            ),
        )
        status = Path(f"/proc/{one.pid}/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)

    assert peak_kb / 1024 <= 160
