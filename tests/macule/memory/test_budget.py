"""Limits, use and bands, with a simulated /sys and /proc."""

from pathlib import Path

import pytest
from macule.memory import budget, processes

MB = budget.MB


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a machine without cgroups; tests add what they need."""
    monkeypatch.setattr(processes, "PROC", str(tmp_path / "proc"))
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


def test_the_lowest_limit_is_named(machine: Path) -> None:
    """The smallest of several limits applies, with the name of its source."""
    v2(machine, "/app", f"{128 * MB}\n")

    assert budget.memory_limit(None, None) == (128 * MB, "cgroup v2")
    assert budget.memory_limit(96, None) == (96 * MB, "platform")
    assert budget.memory_limit(512, 64) == (64 * MB, "MEMORY_LIMIT_MB")


def test_a_parents_limit_applies(machine: Path) -> None:
    """A child group without a limit has its parent's."""
    v2(machine, "/pod/app", "max\n")
    write(machine / "cgroup/pod/memory.max", str(256 * MB))

    assert budget.memory_limit(None, None) == (256 * MB, "cgroup v2")


def test_cgroup_v1_is_read(machine: Path) -> None:
    """cgroup v1 has other files for the same values."""
    v1(machine, "/box", 96)

    assert budget.memory_limit(None, None) == (96 * MB, "cgroup v1")


def test_a_container_without_a_namespace_sees_its_mount(machine: Path) -> None:
    """If the path in /proc is the host's, the mount itself is the container's cgroup."""
    v1(machine, "", 96)
    write(machine / "proc/self/cgroup", "4:memory:/docker/0123456789\n")

    assert budget.memory_limit(None, None) == (96 * MB, "cgroup v1")


def test_without_a_limit_the_host_memory_applies(machine: Path) -> None:
    """A laptop's limit is its memory."""
    assert budget.memory_limit(None, None).source == "host"


@pytest.mark.parametrize("lay", [lambda m: v1(m, "/box", 96), lambda m: v2(m, "/box", "99999999")])
def test_page_cache_is_not_used_memory(machine: Path, lay) -> None:  # type: ignore[no-untyped-def]
    """Memory that the kernel can reclaim does not count; shared memory does."""
    lay(machine)

    assert budget.used_bytes(budget.memory_limit(None, None)) == (60 - 25 + 2) * MB


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
    """Bands start at 30, 70, 88 and 98 % of the limit."""
    assert budget.band_of(mb / 512) == band


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 4.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, 4.0),
        ({"cpu.max": "1600000 100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.max": "100 100000\n"}, 0.01),
    ],
    ids=["none", "half", "no quota", "more than there are", "version 1", "v1 without", "tiny"],
)
def test_the_quota_limits_the_processors(
    machine: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: float
) -> None:
    """The number of processors is this process's, or less by the quota of cgroup v2 or v1."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        write(machine / "cgroup" / name, text)

    assert budget.cpu_count() == pytest.approx(count)
