"""Limits, use and bands, over a drawn /sys and /proc."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from macule import budget

MB = budget.MB


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without cgroups; tests add what they need."""
    monkeypatch.setattr(budget, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(budget, "CGROUPS", str(tmp_path / "cgroup"))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def v1(machine: Path, path: str, limit_mb: int) -> None:
    write(machine / "proc/self/cgroup", f"4:memory:{path}\n2:cpu:/\n")
    folder = machine / "cgroup/memory" / path.strip("/")
    write(folder / "memory.limit_in_bytes", str(limit_mb * MB))
    write(folder / "memory.usage_in_bytes", str(60 * MB))
    write(folder / "memory.stat", f"cache 1\ntotal_cache {25 * MB}\ntotal_shmem {2 * MB}\n")


def v2(machine: Path, path: str, limit: str) -> None:
    write(machine / "proc/self/cgroup", f"0::{path}\n")
    folder = machine / "cgroup" / path.strip("/")
    write(folder / "memory.max", limit)
    write(folder / "memory.current", str(60 * MB))
    write(folder / "memory.stat", f"anon 5\nfile {25 * MB}\nshmem {2 * MB}\n")


def test_the_tightest_limit_is_named(machine: Path) -> None:
    """Of several limits the smallest counts, under the name of who set it."""
    v2(machine, "/app", f"{128 * MB}\n")

    assert budget.limit(None, None) == (128 * MB, "cgroup v2")
    assert budget.limit(96, None) == (96 * MB, "platform")
    assert budget.limit(512, 64) == (64 * MB, "MEMORY_LIMIT_MB")


def test_a_limit_further_up_counts(machine: Path) -> None:
    """A child group without a limit of its own is under its parent's."""
    v2(machine, "/pod/app", "max\n")
    write(machine / "cgroup/pod/memory.max", str(256 * MB))

    assert budget.limit(None, None) == (256 * MB, "cgroup v2")


def test_version_1_is_read_too(machine: Path) -> None:
    """cgroup v1 has other files for the same."""
    v1(machine, "/box", 96)

    assert budget.limit(None, None) == (96 * MB, "cgroup v1")


def test_a_container_without_a_namespace_sees_its_mount(machine: Path) -> None:
    """Where the path in /proc is the host's, the mount itself is the container's cgroup."""
    v1(machine, "", 96)
    write(machine / "proc/self/cgroup", "4:memory:/docker/0123456789\n")

    assert budget.limit(None, None) == (96 * MB, "cgroup v1")


def test_without_any_limit_the_host_counts(machine: Path) -> None:
    """A laptop's limit is its memory."""
    assert budget.limit(None, None).source == "host"


@pytest.mark.parametrize("lay", [lambda m: v1(m, "/box", 96), lambda m: v2(m, "/box", "99999999")])
def test_page_cache_is_not_used_memory(machine: Path, lay) -> None:  # type: ignore[no-untyped-def]
    """What the kernel can drop at once does not count; shared memory does."""
    lay(machine)

    assert budget.used(budget.limit(None, None)) == (60 - 25 + 2) * MB


def test_this_process_is_measured() -> None:
    """On a real /proc the sums are those of a living process."""
    usage = budget.usage([os.getpid()])

    assert 5 * MB < usage.pss <= usage.rss <= usage.peak
    assert usage.rss < usage.vms
    assert os.getpid() in budget.processes()


# A first process forks a worker, which starts a program; a shell that it comes from is not its own.
FAMILY = """
import os, subprocess, sys, time
from macule import budget

budget.first()
if os.fork() == 0:
    child = subprocess.Popen(["sleep", "60"])
    arbiter, own = os.getppid(), {os.getpid(), child.pid}
    print(set(budget.processes()) == {arbiter, *own}, flush=True)
    if sys.argv[1] == "killed":
        os.kill(arbiter, 9)
        while os.getppid() == arbiter:
            time.sleep(0.01)
        print(set(budget.processes()) == own, flush=True)
    child.kill()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("arbiter", ["lives", "killed"])
def test_a_service_is_its_first_process_and_all_below_it(arbiter: str) -> None:
    """Workers and what they start count, nothing else does; also where the first was killed."""
    shell = f"{sys.executable} -c '{FAMILY}' {arbiter} & sleep 60 & own=$!; wait %1; kill $own"
    run = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=False
    )

    assert run.stdout.split() == ["True"] * (1 if arbiter == "lives" else 2), run.stderr


def test_without_proc_a_service_is_this_process(machine: Path) -> None:
    """macOS has no /proc: then this process is all that is known."""
    assert budget.processes() == [os.getpid()]


def test_a_process_that_has_ended_counts_nothing() -> None:
    """A worker may end between being listed and being read."""
    assert budget.usage([2**22 + 1]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("mb", "band"),
    [
        (0, "idle"),
        (153, "idle"),
        (154, "loaded"),
        (358, "loaded"),
        (359, "predicting"),
        (450, "predicting"),
        (451, "critical"),
        (501, "critical"),
        (502, "oom_imminent"),
    ],
)
def test_bands_scale_from_512_mb(mb: int, band: str) -> None:
    """Bands begin at 30, 70, 88 and 98 % of the limit."""
    assert budget.band_of(mb / 512) == band
