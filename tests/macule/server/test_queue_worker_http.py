"""The port of a real worker: metrics, liveness, access, and slow clients."""

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from macule.jobs import JobOptions
from macule.jobs.broker.redis_queue import RedisQueue
from macule.security import api_keys
from prometheus_client.parser import text_string_to_metric_families
from support.broker import WORKER, Broker, worker
from support.images import photo
from support.load_clients import free_port
from support.service import Answer, need, until
from support.webhook_receivers import SECRET, receiver

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "macule.cli", "worker"]
# A worker whose loop may block for seconds, and whose second job never ends.
STILL_S = 4.0
HANGING = f"""
import time
from macule.jobs import task
from macule.server import queue_worker
outcome, jobs = task.run, []
def hang(order, image, chosen):
    jobs.append(order)
    return outcome(order, image, chosen) if len(jobs) == 1 else time.sleep(600)
task.run, queue_worker.STALL_S, queue_worker.max_job_s = hang, {STILL_S}, lambda chosen: 0.0
{WORKER}
"""


@pytest.fixture
def port() -> int:
    return free_port()


def at(port: int) -> dict[str, str]:
    return {"HOST": "127.0.0.1", "WORKER_METRICS_PORT": str(port)}


def call(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def scraped(port: int) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(call(port, "/metrics").body.decode())
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def test_a_worker_reports_its_work(queue: RedisQueue, server: Broker, port: int) -> None:
    """Jobs by outcome, webhooks, stages, cold start and memory; waiting jobs are not its own."""
    signed = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true"}
    with receiver() as target, worker(server, lease_s=60, **at(port), **signed):
        good = JobOptions(webhook=target.url + "/204", events=("prediction.completed",))
        jobs = [queue.put(order, photo()) for order in (good, JobOptions())]
        jobs.append(queue.put(JobOptions(), photo()[:2000]))
        until(lambda: all(queue.get(job.id, "").ended for job in jobs), 60)
        until(lambda: scraped(port)["macule_webhooks_total", "delivered"])
        found, text = scraped(port), call(port, "/metrics").body

    assert found["macule_jobs_total", "", "succeeded"] == 2
    assert found["macule_jobs_total", "bad-image", "failed"] == 1
    assert found["macule_jobs_total", "internal", "failed"] == 0
    assert found["macule_stage_seconds_count", "infer"] >= 1
    assert found["macule_cold_start_seconds_count",] == found["macule_models_loaded",] == 1
    assert found["macule_memory_pss_bytes",] > 2**24
    assert found["macule_processes",] == found["macule_worker_alive",] == 1
    assert not {("macule_jobs_waiting",), ("macule_jobs_limit",)} & found.keys()
    lint = [need("prometheus", "promtool"), "check", "metrics"]
    assert subprocess.run(lint, input=text, capture_output=True, check=False).stderr == b""


def test_a_recycled_worker_continues_its_counts(
    queue: RedisQueue, server: Broker, port: int, tmp_path: Path
) -> None:
    """Counts, including the recycle, continue in the next process."""
    environment = {**os.environ, "BROKER_URL": server.url, "MAX_REQUESTS": "1", **at(port)}
    for _ in range(2):
        queue.put(JobOptions(), photo())
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(COMMAND, env=environment, stdout=output, stderr=output)
    try:
        until(lambda: (tmp_path / "log").read_text().count(" is ready: ") == 3, 60)
        found = scraped(port)
    finally:
        process.kill()
        process.wait()

    assert found["macule_recycles_total",] == found["macule_jobs_total", "", "succeeded"] == 2
    assert found["macule_cold_start_seconds_count",] == 3
    assert found["macule_models_loaded",] == 1


def test_a_worker_is_live_while_it_reaches_the_broker(
    queue: RedisQueue, server: Broker, port: int
) -> None:
    """503 with the reason while the broker is away, else 200."""
    with worker(server, lease_s=4, **at(port)):
        first = call(port, "/health/")
        server.kill()
        try:
            until(lambda: call(port, "/health/").status == 503, 60)
            gone, gauge = call(port, "/health/"), scraped(port)["macule_worker_alive",]
        finally:
            server.start()
        until(lambda: call(port, "/health").status == 200, 60)

    assert (first.status, first.body) == (200, b"ok")
    assert b"the broker has not answered for" in gone.body
    assert gauge == 0


def test_a_worker_is_live_while_its_loop_runs(
    queue: RedisQueue, server: Broker, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker is live; one whose job never ends is not, and says so."""
    monkeypatch.setattr("support.broker.WORKER", HANGING)
    with worker(server, lease_s=60, **at(port)):
        end = time.monotonic() + STILL_S + 1
        idle = set()
        while time.monotonic() < end:
            idle.add(call(port, "/health/").status)
            time.sleep(0.1)
        for _ in range(2):
            queue.put(JobOptions(), photo())
        until(lambda: call(port, "/health/").status == 503, 60)
        hung = call(port, "/health/")

    assert idle == {200}
    assert b"the event loop has been stalled for" in hung.body


def test_access_follows_the_usual_rules(queue: RedisQueue, server: Broker, port: int) -> None:
    """With keys the metrics need one, the liveness check does not; other routes are problems."""
    key, pair = api_keys.create_key("prometheus")
    with worker(server, lease_s=60, **at(port), API_KEYS=pair):
        assert call(port, "/health/").status == 200
        assert call(port, "/metrics").status == 401
        assert call(port, "/metrics", Authorization=f"Bearer {key}").status == 200
        assert call(port, "/predict/", **{"X-API-Key": key}).status == 404
        assert call(port, "/metrics", "POST", **{"X-API-Key": key}).status == 405
        assert call(port, "/health/", "HEAD").body == b""


def test_no_client_blocks_the_port(queue: RedisQueue, server: Broker, port: int) -> None:
    """Silence, half a head and invalid data end within seconds, and the next client is answered."""
    with worker(server, lease_s=60, **at(port)):
        for sent in (
            b"",
            b"GET /health/ HTTP/1.1\r\n",
            b"x" * 10_000,
            b"\r\n\r\n",
            b"\xff\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as rude:
                rude.sendall(sent)
                assert call(port, "/health/").status == 200
        with socket.create_connection(("127.0.0.1", port), timeout=20) as rude:
            rude.sendall(b"rubbish\r\n\r\n")
            assert rude.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_used_port_is_reported_in_one_line(server: Broker, tmp_path: Path) -> None:
    """Of two workers with the same port on one machine the second does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        environment = {**os.environ, "BROKER_URL": server.url, **at(number)}
        run = subprocess.run(
            COMMAND,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"macule: WORKER_METRICS_PORT={number} cannot be opened: Address already in use. "
        "Each worker on a machine needs its own port."
    ]
