"""/metrics of the running service: its counts match the traffic over all processes."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.broker import broker
from support.images import photo
from support.load_clients import children, workers
from support.service import FRAMEWORK, GUNICORN, GUNICORN_DEV, Service, running, until

TOTAL = ("macule_requests_total", "GET", "/model")
Samples = dict[tuple[str, ...], float]


def scraped(service: Service) -> Samples:
    """Read every sample by its name and its labels' values, in the order of the labels' names."""
    answer = service.call("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(answer.body.decode())
        for one in family.samples
    }


@pytest.mark.parametrize("server", [GUNICORN, FRAMEWORK.replace("{name}", "predict")])
def test_counts_match_the_traffic(tmp_path: Path, server: str) -> None:
    """Requests, refusals, bytes, stages and cache results match the traffic."""
    body = photo()
    with running(server, tmp_path) as service:
        for _ in range(3):
            service.predict(body, "?explain=cam")
        service.predict(b"<html>")
        service.predict(b"")
        service.call("GET", "/nowhere/1")
        service.call("GET", "/nowhere/2")
        service.call("PATCH", "/predict/")
        service.call("HEAD", "/model/")
        found = scraped(service)

    total = "macule_requests_total"  # its labels: method, route, status
    assert found[total, "POST", "/predict", "200"] == 3
    assert found[total, "POST", "/predict", "415"] == 1
    assert found[total, "POST", "/predict", "400"] == 1
    assert found[total, "GET", "other", "404"] == 2
    assert found[total, "other", "/predict", "405"] == 1
    assert found[total, "HEAD", "/model", "200"] == 1
    assert found["macule_request_seconds_count", "/predict"] == 6
    assert found["macule_refusals_total", "not-found"] == 2
    assert found["macule_refusals_total", "unsupported-image"] == 1
    assert found["macule_received_bytes_total",] == 3 * len(body) + 6
    assert found["macule_cache_answers_total", "hit"] == 2
    assert found["macule_cache_answers_total", "miss"] == 1
    for stage in ("decode", "infer", "explain"):
        assert found["macule_stage_seconds_count", stage] == 1
    assert found["macule_stage_seconds_count", "read"] == 4
    assert found["macule_cold_start_seconds_count",] == 1
    assert found["macule_models_loaded",] == 1
    assert found["macule_cache_bytes",] > 0
    assert found["macule_images_admitted",] == found["macule_memory_held_bytes",] == 0
    assert abs(time.time() - found["process_start_time_seconds",]) < 120
    bands = [value for key, value in found.items() if key[0] == "macule_memory_band"]
    assert sorted(bands) == [0, 0, 0, 0, 1]


def test_counts_survive_killed_processes(tmp_path: Path) -> None:
    """With two workers and 200 requests, each killed once, every worker reports all counts."""
    with running(GUNICORN, tmp_path, WEB_CONCURRENCY="2") as service:

        def counted() -> float:
            found = scraped(service)
            return sum(value for key, value in found.items() if key[:3] == TOTAL)

        sent = 0
        before = set(workers(service))
        for pid in sorted(before):
            with ThreadPoolExecutor(8) as pool:
                statuses = list(
                    pool.map(lambda _: service.call("GET", "/model/").status, range(100))
                )
            sent += len(statuses)
            assert set(statuses) == {200}
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in workers(service) and len(workers(service)) == 2)  # type: ignore[misc]
        after = set(workers(service))

        assert not before & after
        assert {counted() for _ in range(12)} == {sent}
        assert scraped(service)["macule_processes",] == 3


def test_a_reload_keeps_the_counts(tmp_path: Path) -> None:
    """After HUP new workers continue the counts."""
    with running(GUNICORN, tmp_path) as service:
        service.predict(photo())
        before = workers(service)
        (arbiter,) = children(service.process.pid)
        os.kill(arbiter, signal.SIGHUP)
        until(lambda: len(workers(service)) == 1 and workers(service) != before)
        until(lambda: scraped(service)["macule_cold_start_seconds_count",] == 2)
        service.predict(photo())
        found = scraped(service)

    assert found["macule_requests_total", "POST", "/predict", "200"] == 2
    assert found["macule_cold_start_seconds_count",] == 2
    assert found["macule_models_loaded",] == 1


def test_the_health_function_has_metrics(tmp_path: Path) -> None:
    """It reports its own requests and memory without opening the queue of a predict service."""
    with running(GUNICORN, tmp_path, FUNCTION_TARGET="health") as service:
        found = scraped(service)

    assert found["macule_requests_total", "GET", "/health", "200"] >= 1
    assert found["macule_memory_pss_bytes",] > 0
    assert not (tmp_path / "data").exists()


def test_the_broker_queue_is_reported_while_it_answers(tmp_path: Path) -> None:
    """Waiting jobs in Valkey are a gauge; without Valkey only that gauge is missing."""
    with (
        broker(tmp_path) as server,
        running(GUNICORN_DEV, tmp_path, BROKER_URL=server.url) as service,
    ):
        service.call("POST", "/predictions", photo(), {"Content-Type": "image/jpeg"})
        with_it = scraped(service)
        server.kill()
        without = scraped(service)

    assert with_it["macule_jobs_waiting",] == 1
    assert with_it["macule_webhooks_waiting",] == 0
    assert 0 < with_it["macule_jobs_held_bytes",] < with_it["macule_jobs_limit_bytes",]
    assert not {"macule_jobs_waiting", "macule_jobs_held_bytes"} & {name for name, *_ in without}
    assert without["macule_requests_total", "POST", "/predictions", "202"] == 1
