"""Counters in shared memory, and the text for Prometheus."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from macule.observability import metrics
from macule.observability.shared_counters import KEY_BYTES, ROW_BYTES, SLOTS, SharedCounters
from prometheus_client.parser import text_string_to_metric_families
from support.service import ROOT

# Each child counts alone, reports it, and ends when told; then the parent sums all rows.
FORKS = """
import os, signal, sys
from macule.observability.shared_counters import SharedCounters

counters = SharedCounters(3)
for turn in range(int(sys.argv[1])):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        counters.register_gauge("held", lambda: 7.0)
        for _ in range(100):
            counters.add(("counted", 1))
        counters.refresh()
        os.write(write, b"x")
        if sys.argv[2] == "kill":
            while True:
                counters.add(("restless", 1))
        os._exit(0)
    os.read(read, 1)
    if sys.argv[2] == "kill":
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
found = counters.sums()
counters.add(("own", 1))
print(found["counted"], found.get("held"), counters.sums()["held"])
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> SharedCounters:
    """Count from zero, whatever other tests have counted."""
    counters = SharedCounters(4)
    monkeypatch.setattr(metrics, "process_counters", [counters])
    return counters


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Read every sample by its name and its labels' values, in the order of the labels' names."""
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_the_text_has_the_counts(fresh: SharedCounters) -> None:
    """Prometheus's own parser reads each count, and labels with escaped characters."""
    odd = 'a "b" \\ c\nd'
    for _ in range(3):
        metrics.add("macule_requests_total", "/predict", "POST", "200")
    metrics.add("macule_received_bytes_total", amount=2.5e9)
    found = samples(metrics.text({"macule_model_info": {(odd, "1", "f", "int8"): 1}}))

    assert found["macule_requests_total", "POST", "/predict", "200"] == 3
    assert found["macule_received_bytes_total",] == 2.5e9
    assert found["macule_model_info", odd, "int8", "f", "1"] == 1


def test_a_histogram_is_cumulative(fresh: SharedCounters) -> None:
    """Each bucket contains all values up to its bound; +Inf contains all."""
    for seconds in (0.0005, 0.001, 0.0011, 99.0):
        metrics.observe("macule_stage_seconds", seconds, "decode")
    found = samples(metrics.text({}))
    bounds = ("0.001", "0.0025", "10", "+Inf")
    counts = [found["macule_stage_seconds_bucket", bound, "decode"] for bound in bounds]

    assert counts == [2, 3, 3, 4]
    assert found["macule_stage_seconds_count", "decode"] == 4
    assert found["macule_stage_seconds_sum", "decode"] == pytest.approx(99.0026)


def test_metrics_without_labels_exist_from_the_start(fresh: SharedCounters) -> None:
    """A rate needs a first value: unused counters are 0, unknown gauges are absent."""
    found = samples(metrics.text({"macule_jobs_waiting": {}}))

    assert found["macule_recycles_total",] == 0
    assert found["macule_cold_start_seconds_count",] == 0
    assert ("macule_jobs_waiting",) not in found


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_ended_processes_keep_their_counts(end: str) -> None:
    """Thirty processes in turn in three rows lose no count and leave no gauge."""
    code = [sys.executable, "-c", FORKS, "30", end]
    found = subprocess.check_output(code, text=True, timeout=60).split()

    assert found == ["3000.0", "None", "0.0"]


def test_a_row_belongs_to_a_running_process() -> None:
    """Two processes never write the same row, and a surplus one harms neither."""
    code = """
import os
from macule.observability.shared_counters import SharedCounters
counters = SharedCounters(2)
def children(count):
    pipes = []
    for _ in range(count):
        ready, go = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.read(go[0], 1)
            for _ in range(20000):
                counters.add(("counted", 1))
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        pipes.append((ready[0], go[1]))
    for _, go in pipes: os.write(go, b"x")
    for ready, _ in pipes: os.read(ready, 1)
    print(counters.sums()["counted"])
    for _, go in pipes: os.write(go, b"x")
    for _ in pipes: os.wait()
children(2)
children(3)
"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split()

    assert found == ["40000.0", "80000.0"]


@pytest.mark.parametrize("function", ["predict", "health"])
def test_every_route_fits_a_key(function: str) -> None:
    """No route is too long to be counted."""
    source = (ROOT / f"layers/model/macule/functions/{function}.py").read_text()
    paths = re.findall(r'"(?:GET|POST) (/\S*)"', source)

    assert max(len(f"requests_total {path} OPTIONS 503") for path in paths) <= KEY_BYTES


def test_memory_is_bounded() -> None:
    """A service of one worker takes less than 256 kB, and a full row loses only new labels."""
    counters = SharedCounters(1)
    for number in range(SLOTS + 50):
        counters.add((f"key {number}", 1))
    counters.add(("key 0", 1))
    counters.add(("k" * 200, 1))

    assert (2 * 1 + 2) * ROW_BYTES < 256 * 2**10
    assert len(counters.sums()) == SLOTS - 1
    assert counters.sums()["key 0"] == 2


@pytest.mark.parametrize("folder", [True, False], ids=["a-folder", "nothing"])
def test_counting_works_without_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: bool
) -> None:
    """Without memfd a temporary file is used; without a folder each process counts alone."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if folder else tmp_path / "none"))
    counters = SharedCounters(2)
    counters.add(("counted", 1))

    assert counters.sums() == {"counted": 1.0}
    assert list(tmp_path.iterdir()) == []


def test_every_metric_is_documented() -> None:
    """docs/api.md has a row for exactly each metric, with its type, labels and meaning."""
    api = (ROOT / "docs/api.md").read_text()
    rows = re.findall(r"^\| `((?:macule|process)_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", api, re.M)
    known = {
        (name, family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help_text)
        for name, family in metrics.FAMILIES.items()
    }

    assert {(name, kind, labels, text) for name, kind, labels, text in rows} == known
