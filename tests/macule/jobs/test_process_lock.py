"""Locks show which processes run: with threads, forks and killed processes."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from macule.jobs import process_lock

MARK = (
    "import sys, time; from pathlib import Path; from macule.jobs import process_lock; "
    "print(process_lock.acquire(Path(sys.argv[1])), flush=True); time.sleep(60)"
)


def other(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a process that takes a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", MARK, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_this_process_is_running(tmp_path: Path) -> None:
    """A process with a lock is running, also for itself; one without is dead."""
    token = process_lock.acquire(tmp_path)

    assert not process_lock.is_dead(tmp_path, token)
    assert process_lock.is_dead(tmp_path, "0" * 16)


def test_a_killed_process_is_dead_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL releases the lock; the first check removes the file."""
    process, token = other(tmp_path)
    lived = not process_lock.is_dead(tmp_path, token)
    end(process)

    assert lived
    assert process_lock.is_dead(tmp_path, token)
    assert list(tmp_path.iterdir()) == []


def test_a_new_lock_removes_those_of_dead_processes(tmp_path: Path) -> None:
    """Locks of dead processes without a claim are removed at the next start."""
    process, _ = other(tmp_path)
    end(process)
    token = process_lock.acquire(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [process_lock.PREFIX + token]


def test_a_fork_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """A child that outlives its parent does not hold the parent's lock."""
    code = (
        "import os, sys, time; from pathlib import Path; from macule.jobs import process_lock; "
        "print(process_lock.acquire(Path(sys.argv[1])), flush=True)\n"
        "if os.fork() == 0: print('forked', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    token, forked = process.stdout.readline().strip(), process.stdout.readline().strip()
    lived = not process_lock.is_dead(tmp_path, token)
    process.kill()  # the child runs on, alone in its own process group
    process.wait()
    died = process_lock.is_dead(tmp_path, token)
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()

    assert (forked, lived, died) == ("forked", True, True)


def test_concurrent_locks_all_hold(tmp_path: Path) -> None:
    """The cleanup never removes a lock that is just being created."""
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: process_lock.acquire(tmp_path), range(64)))

    assert not any(process_lock.is_dead(tmp_path, token) for token in tokens)
