"""Two services of one script in one process group: each counts its own processes."""

from collections.abc import Iterator

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.images import photo
from support.load_clients import children, free_port
from support.service import FRAMEWORK, Service, running

# Starts a service, waits until it answers, then starts another one beside it.
SCRIPT = """
import os, subprocess, sys, time
from urllib.request import urlopen

port, first, second = sys.argv[1:]
processes = [subprocess.Popen(first.split(), env={**os.environ, "PORT": port})]
while True:
    try:
        urlopen(f"http://127.0.0.1:{port}/health/").close()
        break
    except OSError:
        time.sleep(0.02)
processes.append(subprocess.Popen(second.split()))
for process in processes:
    process.wait()
"""
GUNICORN = ".venv/bin/python -m infra.serve"


@pytest.fixture(scope="module", params=[GUNICORN, FRAMEWORK.replace("{name}", "predict")])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Service]]:
    """Run two services: gunicorn's, and another one that it starts."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [".venv/bin/python", str(script), str(port), GUNICORN, request.param]
    with running(command, folder, WEB_CONCURRENCY="2") as second:
        yield [Service(second.process, port, second.log), second]


def measured(service: Service) -> dict[str, float]:
    text = service.call("GET", "/metrics").body.decode()
    families = text_string_to_metric_families(text)
    return {one.name: one.value for family in families for one in family.samples if not one.labels}


def memory_mb(pids: set[int]) -> float:
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 2**20


def test_each_counts_its_own_memory(pair: list[Service]) -> None:
    """A service's processes and memory are those of its own arbiter and workers."""
    arbiters = sorted(children(pair[0].process.pid))
    for service, arbiter in zip(pair, arbiters, strict=True):
        service.predict(photo())
        own = {arbiter, *children(arbiter)}
        report = service.call("GET", "/memory/").json()

        assert report["ledger"]["processes"] == measured(service)["macule_processes"] == len(own)
        assert report["pss_mb"] == pytest.approx(memory_mb(own), rel=0.2)


def test_each_reports_its_own_start(pair: list[Service]) -> None:
    """The age of a service is the age of its arbiter, although the script is older."""
    for service, arbiter in zip(pair, sorted(children(pair[0].process.pid)), strict=True):
        started = psutil.Process(arbiter).create_time()  # from the boot time, in whole seconds

        assert measured(service)["process_start_time_seconds"] == pytest.approx(started, abs=1.1)
