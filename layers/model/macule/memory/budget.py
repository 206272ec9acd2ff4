"""Memory limit of the service from cgroups, platform and settings; usage and memory bands."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from macule import settings
from macule.memory import processes
from macule.memory.processes import read_text

MB = 2**20
CGROUPS = "/sys/fs/cgroup"
BAND_TTL_S = 1.0
# By cgroup version: file of the total; keys of page cache and shared memory in memory.stat.
USED_KEYS = {
    1: ("memory.usage_in_bytes", "total_cache", "total_shmem"),
    2: ("memory.current", "file", "shmem"),
}
# One band for each share in MEMORY_BANDS; below the first share the band is idle.
BANDS = ("loaded", "predicting", "critical", "oom_imminent")


class Limit(NamedTuple):
    """A memory limit and its source."""

    bytes: int
    source: str


def memory_limit(platform_mb: int | None, setting_mb: int | None) -> Limit:
    """Return the smallest limit of cgroup v2, cgroup v1, platform, setting and host memory."""
    known = [Limit(size, source) for size, source in _cgroup_limits()]
    known += [Limit(platform_mb * MB, "platform")] if platform_mb else []
    known += [Limit(setting_mb * MB, "MEMORY_LIMIT_MB")] if setting_mb else []
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([*known, Limit(host, "host")])


def used_bytes(limit: Limit) -> int:
    """Return the bytes in use that count against *limit* and cannot be reclaimed.

    For a cgroup limit: the cgroup's usage without the page cache. Otherwise: this process's RSS.
    """
    if limit.source.startswith("cgroup"):
        for version, folder in _cgroup_folders():
            with suppress(OSError, ValueError, KeyError):
                lines = read_text(f"{folder}/memory.stat").splitlines()
                stat = dict(line.split() for line in lines)
                total, cache, shared = USED_KEYS[version]
                cached = int(stat[cache]) - int(stat[shared])
                return int(read_text(f"{folder}/{total}")) - cached
    return processes.resident_bytes()


def cpu_count() -> float:
    """Return the number of CPUs that affinity and the cgroup quota allow this process to use."""
    found = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1.0
    for folder in (f"{CGROUPS}", f"{CGROUPS}/cpu"):
        with suppress(OSError, ValueError):
            quota, period = read_text(f"{folder}/cpu.max").split()
            found = min(found, int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota = read_text(f"{folder}/cpu.cfs_quota_us")
            if int(quota) > 0:
                found = min(found, int(quota) / int(read_text(f"{folder}/cpu.cfs_period_us")))
    return max(found, 0.01)


def band_of(share: float) -> str:
    """Return the band of a share (0 to 1) of the limit."""
    passed = bisect_right(settings.current().memory_bands, share)
    return BANDS[passed - 1] if passed else "idle"


class Budget:
    """The memory limit of this process, and the band of the service, measured once a second."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._band = "idle"
        self._valid_until = 0.0

    def band(self) -> str:
        """Return the band for the memory of all processes of the service."""
        now = time.monotonic()
        if now >= self._valid_until:
            self._valid_until = now + BAND_TTL_S
            self._band = band_of(processes.usage(processes.service_pids()).pss / self.limit.bytes)
        return self._band


@cache
def current() -> Budget:
    """Return the budget of this process; the limit is read at the first call."""
    chosen = settings.current()
    return Budget(memory_limit(chosen.platform_memory_mb, chosen.memory_limit_mb))


def _cgroup_limits() -> Iterator[tuple[int, str]]:
    """Yield the memory limits of this process's cgroups and of their parents."""
    for version, folder in _cgroup_folders():
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        root = CGROUPS if version == 2 else f"{CGROUPS}/memory"
        while folder.startswith(root):
            with suppress(OSError, ValueError):  # v2 says "max" where there is no limit
                yield int(read_text(f"{folder}/{name}")), f"cgroup v{version}"
            folder = os.path.dirname(folder)


def _cgroup_folders() -> Iterator[tuple[int, str]]:
    """Yield the version and the folder of this process's memory cgroup, v2 first.

    In a container without a cgroup namespace the path is the host's; the mount point is used then.
    """
    lines = []
    with suppress(OSError):
        lines = read_text(f"{processes.PROC}/self/cgroup").splitlines()
    for line in sorted(lines):  # "0::/path" is v2 and sorts first
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, root = (2, CGROUPS) if not controllers else (1, f"{CGROUPS}/memory")
        folder = os.path.normpath(root + path)
        folder = folder if os.path.isdir(folder) else root
        if os.path.exists(f"{folder}/memory.stat"):
            yield version, folder
