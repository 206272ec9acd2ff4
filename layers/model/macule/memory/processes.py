"""Processes of this service: pids, age and memory use, from /proc on Linux, else from psutil.

Linux does not use psutil, as it reports no peak and its import adds 12 ms to a cold start
(docs/decisions.md).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

PROC = "/proc"


class Usage(NamedTuple):
    """Bytes used by several processes together; `peak` is the sum of their peaks."""

    rss: int
    vms: int
    pss: int
    peak: int


@cache
def root_pid() -> int:
    """Return the pid of the service's root process: gunicorn's arbiter, or the only process.

    The first call sets the pid and must come before any fork; forks inherit it.
    """
    return os.getpid()


def service_pids() -> list[int]:
    """Return the pids of the root process and all its descendants."""
    descendants = _descendants_by_proc if _has_proc() else _descendants_by_psutil
    found = descendants(root_pid())
    # this process is missing if the arbiter was killed
    return found if os.getpid() in found else descendants(os.getpid())


def usage(pids: list[int]) -> Usage:
    """Sum the memory of *pids*; a process that has ended counts as 0."""
    read = _usage_by_proc if _has_proc() else _usage_by_psutil
    sums = [(0, 0, 0, 0)]
    for pid in pids:
        with suppress(OSError):
            sums.append(read(pid))
    return Usage(*(sum(column) for column in zip(*sums, strict=True)))


def resident_bytes() -> int:
    """Return the resident set size of this process in bytes."""
    if _has_proc():
        return int(read_text(f"{PROC}/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return usage([os.getpid()]).rss or _own_peak()


def private_bytes() -> int:
    """Return the anonymous memory of this process in bytes, which the kernel cannot reclaim."""
    try:
        return _kilobytes(f"{PROC}/self/status")["RssAnon"]
    except (OSError, KeyError):
        return resident_bytes()


def read_text(path: str) -> str:
    """Read a file under /proc or /sys; process names in it may contain any bytes."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


_restored_at_s: list[float] = []  # by time.monotonic


def mark_restored() -> None:
    """Restart the age at 0, as after a restore from a snapshot."""
    _restored_at_s[:] = [time.monotonic()]


def age_ms() -> float:
    """Return the milliseconds since the root process started, or was restored from a snapshot.

    The kernel records start times in ticks of 10 ms.
    """
    if _restored_at_s:
        return (time.monotonic() - _restored_at_s[0]) * 1e3
    with suppress(OSError, ValueError, IndexError):
        if not _has_proc():
            with _psutil(root_pid()) as process:
                return (time.time() - float(process.create_time())) * 1e3
        started_s = int(_stat(root_pid())[19]) / os.sysconf("SC_CLK_TCK")
        return (float(read_text(f"{PROC}/uptime").split()[0]) - started_s) * 1e3
    return 0.0


def _descendants_by_proc(pid: int) -> list[int]:
    """Return a process and its descendants.

    Only processes of the own process group are read, which takes a sixteenth of the time for all
    processes of the machine. No process of a service leaves its group; others may be in it.
    """
    group, children = os.getpgrp(), dict[int, list[int]]()
    for other in map(int, filter(str.isdigit, os.listdir(PROC))):
        with suppress(OSError):
            if os.getpgid(other) == group:
                children.setdefault(int(_stat(other)[1]), []).append(other)
    found = [pid]
    for parent in found:  # the list grows during the loop
        found += children.get(parent, ())
    return found


def _descendants_by_psutil(pid: int) -> list[int]:
    with suppress(OSError), _psutil(pid) as process:
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return [pid]


def _has_proc() -> bool:
    return os.path.exists(f"{PROC}/self/statm")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may contain any character."""
    return read_text(f"{PROC}/{pid}/stat").rpartition(")")[2].split()


def _usage_by_proc(pid: int) -> tuple[int, int, int, int]:
    """Return rss, vms, pss and peak of one process in bytes."""
    status = _kilobytes(f"{PROC}/{pid}/status")
    rss = status.get("VmRSS", 0)
    pss = rss
    with suppress(OSError):  # not readable for another user's process
        pss = _kilobytes(f"{PROC}/{pid}/smaps_rollup").get("Pss", rss)
    return rss, status.get("VmSize", 0), pss, status.get("VmHWM", rss)


def _usage_by_psutil(pid: int) -> tuple[int, int, int, int]:
    """Return rss, vms, pss and peak from psutil; rss replaces values that psutil lacks."""
    with _psutil(pid) as process:
        memory = process.memory_info()
    peak = max(memory.rss, _own_peak()) if pid == os.getpid() else memory.rss
    return memory.rss, memory.vms, memory.rss, peak


@contextmanager
def _psutil(pid: int) -> Iterator[Any]:
    """Yield psutil's process object.

    Raises: ProcessLookupError if the process has ended or psutil is not installed.
    """
    try:
        import psutil
    except ModuleNotFoundError as error:
        raise ProcessLookupError(pid) from error
    try:
        yield psutil.Process(pid)
    except psutil.Error as error:
        raise ProcessLookupError(pid) from error


def _own_peak() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kilobytes(path: str) -> dict[str, int]:
    """Parse lines such as `VmRSS:  1234 kB` into bytes by name."""
    rows = (line.split() for line in read_text(path).splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}
