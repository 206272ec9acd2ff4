"""The queue on a real Valkey: atomic steps, forward only, and no hangs."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import redis
from macule.errors import (
    BadSetting,
    CannotFit,
    JobEnded,
    JobExpired,
    KeyInUse,
    KeyReused,
    Macule,
    NoSuchJob,
    QueueFull,
    QueueUnavailable,
    Unavailable,
)
from macule.inference.activation_maps import MAX_CHARACTERS
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
)
from macule.jobs.broker import lua_scripts
from macule.jobs.broker.redis_queue import DIED_PROBLEM, MESSAGE, TASK, RedisQueue
from support.broker import PASSWORD, Broker, worker
from support.images import photo
from support.service import ROOT, until

MB = 2**20
TOLD = JobOptions(webhook="https://caller.example/", events=EVENTS)


@pytest.fixture
def queue(server: Broker) -> RedisQueue:
    server.client.flushall()
    return opened(server)


def opened(server: Broker, **options: Any) -> RedisQueue:
    return RedisQueue(
        server.url,
        **{"ttl_s": 60, "max_jobs": 100, "lease_s": 0.1, "sweep_after_s": 0.1, **options},
    )


def call_in_threads(action: Callable[[], Any], times: int = 32) -> list[Any]:
    """Call from many threads; exceptions are returned."""

    def one(_: int) -> Any:
        try:
            return action()
        except Macule as error:
            return type(error)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_a_job_goes_forward_to_its_result(queue: RedisQueue, server: Broker) -> None:
    """A job starts, runs and ends with its result; then its image is deleted."""
    order = JobOptions(PredictOptions(2, True), owner="ann")
    job = queue.put(order, b"image")
    found = queue.get(job.id, "ann")
    assert (found.status, found.options, queue.waiting()) == (STARTING, order, 1)

    taken = queue.take(job.id)
    assert taken
    assert (taken.image, taken.job.attempts, taken.job.status) == (b"image", 1, PROCESSING)
    assert queue.finish(job.id, SUCCEEDED, {"words": "dấu"})
    assert not queue.finish(job.id, FAILED, {})

    ended = queue.get(job.id, "ann")
    assert (ended.status, ended.outcome, queue.waiting()) == (SUCCEEDED, {"words": "dấu"}, 0)
    assert ended.created_at <= (ended.started_at or 0) <= (ended.ended_at or 0)
    assert not server.client.keys("*image*")


def test_a_job_belongs_to_its_owner(queue: RedisQueue) -> None:
    """For another owner the job does not exist, and cannot be canceled."""
    job = queue.put(JobOptions(owner="ann"), b"")

    for ask in (queue.get, queue.cancel):
        for owner in ("", "bob"):
            with pytest.raises(NoSuchJob):
                ask(job.id, owner)
    assert queue.get(job.id, "ann").status == STARTING


def test_a_result_expires(server: Broker) -> None:
    """After JOB_TTL_S the result is deleted; for a day its owner gets "expired"."""
    queue = opened(server, ttl_s=0.1)
    job = queue.put(JobOptions(owner="ann"), b"", key="k", fingerprint="f")
    queue.take(job.id)
    queue.finish(job.id, SUCCEEDED, {})
    assert queue.put(JobOptions(owner="ann"), b"", key="k", fingerprint="f").id == job.id
    time.sleep(0.15)

    for ask in (queue.get, queue.cancel):
        with pytest.raises(JobExpired):
            ask(job.id, "ann")
        with pytest.raises(NoSuchJob):
            ask(job.id, "bob")
    assert queue.put(JobOptions(owner="ann"), b"", key="k", fingerprint="f").id != job.id
    gone_at = server.client.zscore("macule:1:gone", f"{job.id} ann")
    assert 86_000 < gone_at - time.time() <= 86_401


def test_everything_expires(queue: RedisQueue, server: Broker) -> None:
    """Keys of a job and its image expire even if no worker ever takes it."""
    queue.put(TOLD, b"", key="k")
    lasting = {key.decode() for key in server.client.scan_iter() if server.client.ttl(key) < 0}

    names = ("open", "celery:queue", "held", "sums", "gone")
    assert lasting == {f"macule:1:{name}" for name in names}


def test_ids_of_expired_jobs_are_bounded(server: Broker) -> None:
    """Expired ids take a sixteenth at most, the oldest go first; ids of existing jobs stay."""
    server.client.flushall()
    queue = opened(server, ttl_s=0.001, max_bytes=2**18)
    most = 2**18 // lua_scripts.EXPIRED_IDS_DIVISOR // lua_scripts.EXPIRED_ID_BYTES
    ids = []
    for _ in range(most + 30):
        ids.append(queue.put(JobOptions(owner="ann"), b"").id)
        queue.cancel(ids[-1], "ann")
    kept = [queue.put(JobOptions(owner="ann"), b"") for _ in range(3)]

    gone = [one.decode().split()[0] for one in server.client.zrange("macule:1:gone", 0, -1)]
    assert len(gone) <= most + len(kept) + 1
    assert set(gone) >= {ids[-1], *(job.id for job in kept)}
    assert ids[0] not in gone
    with pytest.raises(NoSuchJob):
        queue.get(ids[0], "ann")
    with pytest.raises(JobExpired):
        queue.get(ids[-1], "ann")
    sums = int(server.client.hget("macule:1:sums", "bytes"))
    assert queue.usage().bytes == sums + len(gone) * lua_scripts.EXPIRED_ID_BYTES


def test_an_expired_job_holds_no_place(server: Broker) -> None:
    """Expired jobs do not fill the queue, even without a worker."""
    server.client.flushall()
    queue = opened(server, max_jobs=1)
    job = queue.put(JobOptions(), b"")
    server.client.delete(f"macule:1:job:{job.id}")

    assert queue.put(JobOptions(), b"").status == STARTING


def test_an_idempotency_key_makes_one_job(queue: RedisQueue) -> None:
    """32 concurrent requests with one Idempotency-Key make one job."""
    answers = call_in_threads(lambda: queue.put(JobOptions(owner="ann"), b"", "k", "f").id)
    (job_id,) = [answer for answer in answers if isinstance(answer, str)]

    assert (answers.count(KeyInUse), queue.waiting()) == (31, 1)
    with pytest.raises(KeyReused):
        queue.put(JobOptions(owner="ann"), b"", "k", "another")
    assert queue.put(JobOptions(owner="bob"), b"", "k", "f").id != job_id
    with pytest.raises(KeyInUse) as raised:
        queue.put(JobOptions(owner="ann"), b"", "k", "f")
    assert raised.value.figures == {"prediction": job_id}


def test_the_queue_is_bounded(server: Broker) -> None:
    """32 concurrent requests get as many places as there are, never more."""
    server.client.flushall()
    queue = opened(server, max_jobs=5)
    answers = call_in_threads(lambda: queue.put(JobOptions(), b"").id)

    assert (answers.count(QueueFull), queue.waiting()) == (27, 5)
    queue.cancel(next(answer for answer in answers if isinstance(answer, str)), "")
    assert queue.put(JobOptions(), b"").status == STARTING


def test_a_job_is_canceled_once(queue: RedisQueue) -> None:
    """A waiting or running job can be canceled; then its result is discarded."""
    waiting, working = queue.put(JobOptions(), b""), queue.put(JobOptions(), b"")
    queue.take(working.id)

    for job in (waiting, working):
        assert queue.cancel(job.id, "").status == CANCELED
        with pytest.raises(JobEnded):
            queue.cancel(job.id, "")
        assert not queue.finish(job.id, SUCCEEDED, {})
        assert not queue.renew(job.id)
        assert queue.take(job.id) is None
        assert queue.get(job.id, "").outcome is None
    done = queue.put(JobOptions(), b"")
    queue.take(done.id)
    queue.finish(done.id, SUCCEEDED, {})
    with pytest.raises(JobEnded):
        queue.cancel(done.id, "")
    assert queue.get(done.id, "").status == SUCCEEDED


def test_one_worker_gets_a_job(server: Broker, queue: RedisQueue) -> None:
    """Of 32 workers with the same message one gets the job."""
    job = queue.put(JobOptions(), b"")
    takers = [opened(server, lease_s=5) for _ in range(32)]
    taken = call_in_threads(lambda: takers.pop().take(job.id))

    assert sum(answer is not None for answer in taken) == 1
    assert queue.get(job.id, "").attempts == 1


def test_a_dead_workers_job_is_taken_again(server: Broker, queue: RedisQueue) -> None:
    """A worker without a renewed lease loses the job, and its late result is rejected."""
    job, other = queue.put(JobOptions(), b""), opened(server)
    queue.take(job.id)
    for _ in range(3):
        time.sleep(0.06)
        assert queue.renew(job.id)
        assert other.take(job.id) is None
    time.sleep(0.15)
    taken = other.take(job.id)

    assert taken
    assert taken.job.attempts == 2
    assert not queue.renew(job.id)
    assert not queue.requeue(job.id)
    assert not queue.finish(job.id, SUCCEEDED, {"by": "the dead"})
    assert other.finish(job.id, SUCCEEDED, {"by": "the living"})
    assert queue.get(job.id, "").outcome == {"by": "the living"}


def test_a_job_that_kills_workers_fails(server: Broker, queue: RedisQueue) -> None:
    """After MOST_ATTEMPTS dead workers a job fails with the reason and is listed."""
    job = queue.put(JobOptions(), b"")
    for _ in range(MAX_ATTEMPTS):
        assert opened(server).take(job.id)
        time.sleep(0.15)
    found = opened(server).sweep()

    assert found == [job.id]
    ended = queue.get(job.id, "")
    assert (ended.status, ended.outcome) == (FAILED, json.loads(DIED_PROBLEM))
    parked = json.loads(server.client.lindex("macule:1:parked", 0))
    assert (parked["id"], parked["attempts"]) == (job.id, MAX_ATTEMPTS)
    assert parked["reason"]["type"] == "urn:macule:problem:worker-died"
    assert opened(server).take(job.id) is None


def test_returning_a_job_is_no_attempt(server: Broker, queue: RedisQueue) -> None:
    """A returned job waits for its pause and is sent again, any number of times."""
    job = queue.put(JobOptions(), b"")
    for returned in range(2 * MAX_ATTEMPTS):
        server.client.delete("macule:1:celery:queue")
        taken = queue.take(job.id)
        assert taken
        assert (taken.job.attempts, taken.returned) == (1, returned)
        assert queue.requeue(job.id, 0.05)
        queue.sweep()
        assert server.client.llen("macule:1:celery:queue") == 0
        time.sleep(0.06)
        queue.sweep()
        assert server.client.llen("macule:1:celery:queue") == 1


def test_a_lost_message_is_sent_again(server: Broker, queue: RedisQueue) -> None:
    """A job whose message was lost gets a new equal one; a job with a message gets none."""
    queue.put(JobOptions(), b"")
    (sent,) = server.client.lrange("macule:1:celery:queue", 0, -1)
    time.sleep(0.15)
    queue.sweep()
    assert server.client.llen("macule:1:celery:queue") == 1
    server.client.delete("macule:1:celery:queue")
    time.sleep(0.15)
    queue.sweep()

    assert server.client.lrange("macule:1:celery:queue", 0, -1) == [sent]


def test_the_message_equals_celerys(server: Broker) -> None:
    """The message equals that of Celery's client, except for display fields."""
    from celery import Celery

    server.client.flushall()
    app = Celery(broker=server.url, set_as_current=False)
    app.conf.task_default_queue = "theirs"
    app.send_task(TASK, ["JOB"], task_id="JOB", ignore_result=True)
    app.close()
    theirs = json.loads(server.client.lindex("theirs", 0))
    ours = json.loads(MESSAGE)

    assert json.loads(ours["body"]) == json.loads(base64.b64decode(theirs["body"]))
    for name in ("content-encoding", "content-type"):
        assert ours[name] == theirs[name]
    assert ours["headers"].items() <= theirs["headers"].items()
    assert set(theirs["properties"]) - set(ours["properties"]) == {"body_encoding", "reply_to"}


def test_a_frozen_server_is_a_503(server: Broker, queue: RedisQueue) -> None:
    """A server that accepts connections and never answers is a 503 within seconds."""
    job = queue.put(JobOptions(), b"")
    server.process.send_signal(signal.SIGSTOP)
    try:
        for ask in (
            lambda: queue.put(JobOptions(), b""),
            lambda: queue.get(job.id, ""),
            queue.waiting,
        ):
            began = time.monotonic()
            with pytest.raises(QueueUnavailable) as raised:
                ask()
            assert time.monotonic() - began < 4.5
            assert raised.value.status == 503
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert queue.get(job.id, "").status == STARTING


def test_accepted_jobs_survive_the_server(server: Broker, queue: RedisQueue) -> None:
    """Jobs, images, messages and results survive kill -9, on the same connections."""
    waiting, ended = queue.put(JobOptions(), b"image"), queue.put(JobOptions(), b"")
    queue.take(ended.id)
    queue.finish(ended.id, SUCCEEDED, {"a": 1})
    server.kill()
    with pytest.raises(QueueUnavailable) as raised:
        queue.get(waiting.id, "")
    server.start()

    assert PASSWORD not in f"{raised.value}{raised.value.__cause__}"
    assert queue.get(ended.id, "").outcome == {"a": 1}
    assert server.client.llen("macule:1:celery:queue") == 2
    taken = queue.take(waiting.id)
    assert taken
    assert taken.image == b"image"


@pytest.fixture
def small(server: Broker) -> Iterator[Broker]:
    """Give the server 8 MB beside its present use; more after the test."""
    server.client.flushall()
    server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + 8 * MB)
    yield server
    server.client.config_set("maxmemory", 0)


def fill(server: Broker) -> None:
    """Write other keys until the server accepts no more."""
    for size in (100_000, 1000, 10):
        with suppress(redis.ResponseError):
            while True:
                server.client.rpush("others", bytes(size))


def offer(queue: RedisQueue, order: JobOptions, image: bytes) -> Unavailable | str:
    try:
        return queue.put(order, image).id
    except Unavailable as error:
        return error


def test_full_memory_rejects_only_new_jobs(small: Broker) -> None:
    """Accepted jobs end, with the longest results and webhooks, although others fill the rest.

    New ones are rejected with figures while their result would not fit, and then as full.
    """
    queue, accepted = opened(small, lease_s=60), []
    order = TOLD._replace(predict=PredictOptions(with_cam=True))
    while isinstance(said := offer(queue, order, b"i" * 100_000), str):
        accepted.append(said)
    fill(small)
    again = offer(queue, order, b"i")
    for job_id in accepted:
        assert queue.take(job_id)
        assert queue.finish(job_id, SUCCEEDED, {"map": "data:" + "x" * MAX_CHARACTERS})
    told = 0
    while delivery := queue.claim_webhook():
        queue.reschedule_webhook(delivery, None)
        told += 1

    assert len(accepted) > 5
    assert isinstance(said, QueueUnavailable)
    assert said.figures["free_mb"] <= said.figures["needed_mb"]
    assert isinstance(again, QueueUnavailable)
    assert {queue.get(job_id, "").status for job_id in accepted} == {SUCCEEDED}
    assert told == 2 * len(accepted)


def test_accepted_jobs_fit(small: Broker) -> None:
    """Without other writers all accepted jobs end within the server's memory."""
    queue, accepted = opened(small, lease_s=60), []
    order = JobOptions(PredictOptions(with_cam=True))
    while isinstance(said := offer(queue, order, b"i"), str):
        accepted.append(said)
    for job_id in accepted:
        queue.take(job_id)
        queue.finish(job_id, SUCCEEDED, {"map": "x" * MAX_CHARACTERS})
    memory = small.client.info("memory")

    assert len(accepted) > 5
    # a connection's buffer keeps the size of its largest command for a moment
    assert memory["used_memory"] - memory["mem_clients_normal"] < memory["maxmemory"]
    small.client.set("others", b"")  # which is rejected when memory is full


def test_bytes_are_bounded_including_results(server: Broker) -> None:
    """Above MAX_JOBS_MB a job is rejected with figures and the time when space is freed."""
    server.client.flushall()
    queue = opened(server, ttl_s=1.0, lease_s=60, max_bytes=3 * MB)
    with pytest.raises(CannotFit):
        queue.put(JobOptions(), bytes(3 * MB))
    accepted = []
    while isinstance(waits := offer(queue, JobOptions(), bytes(MB // 2)), str):
        accepted.append(waits)
    for job_id in accepted:
        queue.take(job_id)
        queue.finish(job_id, SUCCEEDED, {"words": "x" * (MB // 2)})
    kept = offer(queue, JobOptions(), bytes(MB // 2))

    assert isinstance(waits, QueueFull)
    assert isinstance(kept, QueueFull)
    assert (waits.figures["waiting"], kept.figures["waiting"]) == (len(accepted), 0)
    assert 0 < queue.usage().bytes <= queue.usage().max_bytes == 3 * MB
    until(lambda: isinstance(offer(queue, JobOptions(), bytes(MB // 2)), str))


def test_counts_return_to_zero(queue: RedisQueue, server: Broker) -> None:
    """Whatever becomes of jobs, only stored bytes are counted."""
    ids = [queue.put(TOLD, b"image").id for _ in range(4)]
    queue.cancel(ids[0], "")
    queue.take(ids[1])
    queue.finish(ids[1], SUCCEEDED, {})
    for job_id in ids:
        server.client.delete(f"macule:1:job:{job_id}")
    for entry in server.client.zrange("macule:1:held", 0, -1):
        server.client.zadd("macule:1:held", {entry: 0})
    queue.sweep()

    assert server.client.hgetall("macule:1:sums") == {b"bytes": b"0", b"room": b"0"}
    while delivery := queue.claim_webhook():
        queue.reschedule_webhook(delivery, None)
    assert (
        queue.usage().bytes == len(ids) * lua_scripts.EXPIRED_ID_BYTES
    )  # their ids stay for a day


def test_workers_survive_a_server_without_memory(small: Broker) -> None:
    """Celery ends when its commands fail; the worker restarts it and ends all jobs."""
    queue = opened(small, lease_s=1, sweep_after_s=1)
    made = [queue.put(JobOptions(), photo()).id for _ in range(5)]
    small.client.config_set("maxmemory", 1)
    with worker(small, anew=True) as process:
        log = next(small.folder.glob("worker-*.log"))
        until(lambda: "restarts in" in log.read_text(), 40)
        small.client.config_set("maxmemory", 0)
        until(lambda: {queue.get(job_id, "").status for job_id in made} == {SUCCEEDED}, 40)

        assert process.poll() is None


def test_a_wrong_address_is_named_without_its_password() -> None:
    """An invalid BROKER_URL is named, but not shown."""
    with pytest.raises(BadSetting) as raised:
        RedisQueue(f"redis://:{PASSWORD}@host:port/0", 60, 1)

    assert PASSWORD not in f"{raised.value}{raised.value.__cause__}"
    assert raised.value.__suppress_context__


def test_a_broker_without_its_client_is_named() -> None:
    """Without redis-py BROKER_URL is an error that says what to install."""
    code = "from macule.jobs import selection; selection.active_queue()"
    environment = {**os.environ, "BROKER_URL": "redis://127.0.0.1"}
    run = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "BadSetting: BROKER_URL needs the package redis, which is not installed" in run.stderr


def test_webhooks_follow_state_changes(server: Broker) -> None:
    """Events are due in order of the states, and again after a pause, even if the job expired."""
    server.client.flushall()
    queue = opened(server, ttl_s=0.2)
    plain, job = queue.put(JobOptions(events=EVENTS), b""), queue.put(TOLD, b"")
    for each in (plain, job):
        queue.take(each.id)
        queue.finish(each.id, SUCCEEDED, {"a": 1})

    started = queue.claim_webhook()
    assert started
    assert (started.url, started.attempts, queue.claim_webhook()) == (TOLD.webhook, 0, None)
    assert json.loads(started.body)["data"]["status"] == PROCESSING
    queue.reschedule_webhook(started, 0.3)
    completed = queue.claim_webhook()
    assert completed
    data = json.loads(completed.body)["data"]
    assert (data["id"], data["status"], data["a"]) == (job.id, SUCCEEDED, 1)
    queue.reschedule_webhook(completed, None)
    assert queue.claim_webhook() is None

    time.sleep(0.35)
    with pytest.raises(JobExpired):
        queue.get(job.id, "")
    assert queue.claim_webhook() == started._replace(attempts=1)
    queue.reschedule_webhook(started, None)
    assert not server.client.keys("macule:1:due") + server.client.keys("macule:1:hook:*")


def test_a_delivery_belongs_to_one_worker(queue: RedisQueue, server: Broker) -> None:
    """Of 32 workers one delivers; if it dies another gets the same message later."""
    job = queue.put(TOLD, b"")
    queue.cancel(job.id, "")
    found = [delivery for delivery in call_in_threads(queue.claim_webhook) if delivery]
    assert len(found) == 1

    server.client.zadd("macule:1:due", {found[0].name: 0})  # its lease has expired
    assert queue.claim_webhook() == found[0]


@pytest.mark.memory
def test_a_web_process_stays_small(server: Broker) -> None:
    """A broker costs a web process at most 25 MB, without Celery."""
    code = (
        # redis-py loads OpenTelemetry if it is installed: 2 MB that no broker needs
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import macule.functions.predict, macule.jobs\n"
        "from macule.memory import processes\n"
        "before = processes.resident_bytes()\n"
        "from macule.jobs.broker.redis_queue import RedisQueue\n"
        "queue = RedisQueue(sys.argv[1], 60, 100)\n"
        "for _ in range(20): queue.put(macule.jobs.JobOptions(), bytes(10**6)); queue.waiting()\n"
        "heavy = {'celery', 'kombu'} & set(sys.modules)\n"
        "print((processes.resident_bytes() - before) / 2**20, *heavy)"
    )
    server.client.flushall()
    found = subprocess.check_output([sys.executable, "-c", code, server.url], text=True).split()
    server.client.flushall()

    assert float(found[0]) <= 25
    assert found[1:] == []
