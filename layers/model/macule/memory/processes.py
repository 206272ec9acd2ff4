"""The processes of this service: which they are, how old, and the memory that they use.

Linux tells it in /proc. Where there is no /proc, as on macOS, psutil reads it. On Linux psutil is
not used: it reports no peak, and its import adds 12 ms to a cold start (docs/decisions.md).
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
    """Bytes used by processes together; `peak` sums each one's own peak."""

    rss: int
    vms: int
    pss: int
    peak: int


@cache
def first() -> int:
    """Return the pid of the service's first process: gunicorn's arbiter, or the only one there is.

    The first call decides, which comes before any fork; forks inherit what it found.
    """
    return os.getpid()


def of_service() -> list[int]:
    """Return the pids of this service: its first process and all that descend from it."""
    family = _family_by_proc if _has_proc() else _family_by_psutil
    found = family(first())
    return found if os.getpid() in found else family(os.getpid())  # an arbiter was killed


def usage(pids: list[int]) -> Usage:
    """Sum the memory of *pids*; a process that has just ended counts nothing."""
    read = _usage_by_proc if _has_proc() else _usage_by_psutil
    sums = [(0, 0, 0, 0)]
    for pid in pids:
        with suppress(OSError):
            sums.append(read(pid))
    return Usage(*(sum(column) for column in zip(*sums, strict=True)))


def resident() -> int:
    """Return the bytes of this process that lie in memory."""
    if _has_proc():
        return int(read_text(f"{PROC}/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return usage([os.getpid()]).rss or _own_peak()


def private() -> int:
    """Return the bytes of this process that no file backs: what no kernel can take back."""
    try:
        return _kilobytes(f"{PROC}/self/status")["RssAnon"]
    except (OSError, KeyError):
        return resident()


def read_text(path: str) -> str:
    """Read a file of the kernel's; whatever bytes a process' name has, they are no error."""
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


_restored_s: list[float] = []  # by time.monotonic


def restored() -> None:
    """Count the age from now on: this process is a copy from a snapshot."""
    _restored_s[:] = [time.monotonic()]


def age_ms() -> float:
    """Return the milliseconds since the service's first process started.

    The kernel counts a start in ticks of 10 ms. A copy from a snapshot starts when it is restored.
    """
    if _restored_s:
        return (time.monotonic() - _restored_s[0]) * 1e3
    with suppress(OSError, ValueError, IndexError):
        if not _has_proc():
            with _psutil(first()) as process:
                return (time.time() - float(process.create_time())) * 1e3
        started_s = int(_stat(first())[19]) / os.sysconf("SC_CLK_TCK")
        return (float(read_text(f"{PROC}/uptime").split()[0]) - started_s) * 1e3
    return 0.0


def _family_by_proc(pid: int) -> list[int]:
    """Return a process and its descendants.

    Only processes of this one's group are looked at, which costs a sixteenth of reading every
    process of the machine. Nothing of a service leaves its group; others may be in it.
    """
    group, children = os.getpgrp(), dict[int, list[int]]()
    for each in map(int, filter(str.isdigit, os.listdir(PROC))):
        with suppress(OSError):
            if os.getpgid(each) == group:
                children.setdefault(int(_stat(each)[1]), []).append(each)
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def _family_by_psutil(pid: int) -> list[int]:
    with suppress(OSError), _psutil(pid) as process:
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return [pid]


def _has_proc() -> bool:
    return os.path.exists(f"{PROC}/self/statm")


def _stat(pid: int) -> list[str]:
    """Return what /proc says of a process, from its state on; its name may hold anything."""
    return read_text(f"{PROC}/{pid}/stat").rpartition(")")[2].split()


def _usage_by_proc(pid: int) -> tuple[int, int, int, int]:
    """Return rss, vms, pss and peak of one process in bytes."""
    status = _kilobytes(f"{PROC}/{pid}/status")
    rss = status.get("VmRSS", 0)
    pss = rss
    with suppress(OSError):  # another user's process shows its rss alone
        pss = _kilobytes(f"{PROC}/{pid}/smaps_rollup").get("Pss", rss)
    return rss, status.get("VmSize", 0), pss, status.get("VmHWM", rss)


def _usage_by_psutil(pid: int) -> tuple[int, int, int, int]:
    """Return the same without /proc; rss stands for what psutil does not tell."""
    with _psutil(pid) as process:
        memory = process.memory_info()
    peak = max(memory.rss, _own_peak()) if pid == os.getpid() else memory.rss
    return memory.rss, memory.vms, memory.rss, peak


@contextmanager
def _psutil(pid: int) -> Iterator[Any]:
    """Ask psutil about a process.

    Raises: ProcessLookupError where the process has ended, or psutil is not installed.
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
    """Read lines such as `VmRSS:  1234 kB` as bytes by name."""
    rows = (line.split() for line in read_text(path).splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}
