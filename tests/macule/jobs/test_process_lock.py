"""Who lives is told by locks: of threads, forks and processes that were killed."""

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
    """Start a process that marks itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", MARK, folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_this_process_lives(tmp_path: Path) -> None:
    """Who marked itself lives, in its own eyes too; who never did is dead."""
    token = process_lock.acquire(tmp_path)

    assert not process_lock.is_dead(tmp_path, token)
    assert process_lock.is_dead(tmp_path, "0" * 16)


def test_a_killed_process_is_dead_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL takes the lock along; whoever asks first takes the file away."""
    process, token = other(tmp_path)
    lived = not process_lock.is_dead(tmp_path, token)
    end(process)

    assert lived
    assert process_lock.is_dead(tmp_path, token)
    assert list(tmp_path.iterdir()) == []


def test_a_mark_sweeps_those_of_the_dead(tmp_path: Path) -> None:
    """What died without a claim, so that nobody asks for it, goes at the next start."""
    process, _ = other(tmp_path)
    end(process)
    token = process_lock.acquire(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [process_lock.PREFIX + token]


def test_a_fork_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """A child that outlives who marked itself holds none of its lock."""
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
    process.kill()  # the child lives on, in a group of its own with nobody else
    process.wait()
    died = process_lock.is_dead(tmp_path, token)
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()

    assert (forked, lived, died) == ("forked", True, True)


def test_marks_made_at_once_all_live(tmp_path: Path) -> None:
    """One who sweeps never takes a mark that is just being made for a dead one's."""
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: process_lock.acquire(tmp_path), range(64)))

    assert not any(process_lock.is_dead(tmp_path, token) for token in tokens)
