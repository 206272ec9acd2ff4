"""Limits, use and bands, over a drawn /sys and /proc."""

from pathlib import Path

import pytest
from macule.memory import budget, processes

MB = budget.MB


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without cgroups; tests add what they need."""
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


def test_the_tightest_limit_is_named(machine: Path) -> None:
    """Of several limits the smallest counts, under the name of who set it."""
    v2(machine, "/app", f"{128 * MB}\n")

    assert budget.memory_limit(None, None) == (128 * MB, "cgroup v2")
    assert budget.memory_limit(96, None) == (96 * MB, "platform")
    assert budget.memory_limit(512, 64) == (64 * MB, "MEMORY_LIMIT_MB")


def test_a_limit_further_up_counts(machine: Path) -> None:
    """A child group without a limit of its own is under its parent's."""
    v2(machine, "/pod/app", "max\n")
    write(machine / "cgroup/pod/memory.max", str(256 * MB))

    assert budget.memory_limit(None, None) == (256 * MB, "cgroup v2")


def test_version_1_is_read_too(machine: Path) -> None:
    """cgroup v1 has other files for the same."""
    v1(machine, "/box", 96)

    assert budget.memory_limit(None, None) == (96 * MB, "cgroup v1")


def test_a_container_without_a_namespace_sees_its_mount(machine: Path) -> None:
    """Where the path in /proc is the host's, the mount itself is the container's cgroup."""
    v1(machine, "", 96)
    write(machine / "proc/self/cgroup", "4:memory:/docker/0123456789\n")

    assert budget.memory_limit(None, None) == (96 * MB, "cgroup v1")


def test_without_any_limit_the_host_counts(machine: Path) -> None:
    """A laptop's limit is its memory."""
    assert budget.memory_limit(None, None).source == "host"


@pytest.mark.parametrize("lay", [lambda m: v1(m, "/box", 96), lambda m: v2(m, "/box", "99999999")])
def test_page_cache_is_not_used_memory(machine: Path, lay) -> None:  # type: ignore[no-untyped-def]
    """What the kernel can drop at once does not count; shared memory does."""
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
    """Bands begin at 30, 70, 88 and 98 % of the limit."""
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
def test_the_quota_bounds_the_processors(
    machine: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: float
) -> None:
    """Processors are those of this process, or fewer by the quota of cgroup v2 or v1."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        write(machine / "cgroup" / name, text)

    assert budget.cpu_count() == pytest.approx(count)
