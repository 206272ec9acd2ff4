"""Whether a model's file ends the processes that run it: no check of ours foresees every crash.

While a process loads a file, and runs it for the first time, it holds a mark with a lock, which the
kernel drops as the process dies. A file that two processes died of is let alone for a while: else
each worker that gunicorn brings would die of it too, and nothing would be answered any more. What
loads for ever holds the interpreter's lock meanwhile, so that nothing else runs in its process
either: there the kernel's timer ends it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from macule.errors import ModelUnavailable
from macule.registry import local

MAX_DEATHS = 2  # one may be a coincidence: short memory, an operator's kill
PAUSE_S, MAX_DOUBLINGS = 300.0, 4
MAX_TRIAL_S = 15.0  # 10 ms are usual; a tenth of a processor and a cold disk make a second of it


@contextmanager
def guard(path: str, digest: str, first_run: bool = False) -> Iterator[None]:
    """Mark that the file at *path* is tried, until the block ends; what ships is not doubted.

    Once it has been run what died of it before is forgotten.
    Raises: ModelUnavailable, before it is loaded.
    """
    folder = None if os.path.dirname(path) == local.DEFAULT_MODEL_DIR else _folder()
    if folder is None:
        yield
        return
    prefix = os.path.join(folder, f"trial-{digest[:16]}-")
    dead = [mark for mark in _marks(prefix) if _is_dead(mark)]
    if not first_run:
        _check_deaths(os.path.basename(path), dead)
    with _held_mark(prefix):
        yield
    for mark in dead if first_run else ():
        with suppress(OSError):
            os.unlink(mark)


def _check_deaths(name: str, dead: list[str]) -> None:
    ages = list(map(_age_s, dead))
    pause_s = PAUSE_S * 2 ** min(len(dead) - MAX_DEATHS, MAX_DOUBLINGS)
    if len(dead) >= MAX_DEATHS and 0 <= min(ages) < pause_s:
        raise ModelUnavailable(
            f"{name} ended {len(dead)} processes that ran it. It is tried again in "
            f"{pause_s - min(ages):.0f} s; another file is tried at once."
        )


def _age_s(mark: str) -> float:
    try:
        return time.time() - os.stat(mark).st_mtime
    except OSError:  # another process has just run the file well
        return math.inf


@contextmanager
def _held_mark(prefix: str) -> Iterator[None]:
    """Hold a mark for MOST_S at most; a disk that cannot be written stops nothing."""
    import fcntl

    path, file = f"{prefix}{os.urandom(6).hex()}", -1
    with suppress(OSError):
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
    signal.setitimer(signal.ITIMER_REAL, MAX_TRIAL_S)  # SIGALRM, which nobody handles
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if file >= 0:
            with suppress(OSError):
                os.unlink(path)
            os.close(file)


def _marks(prefix: str) -> list[str]:
    from glob import escape, glob

    return glob(f"{escape(prefix)}*")


def _is_dead(mark: str) -> bool:
    import fcntl

    try:
        file = os.open(mark, os.O_RDWR)
    except OSError:
        return False  # its process lives, and has just ended its trial
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.path.exists(mark)
    except OSError:
        return False
    finally:
        os.close(file)


def _folder() -> str | None:
    """Return this user's own folder for what is temporary, None where there is none."""
    from tempfile import gettempdir

    try:
        folder = os.path.join(gettempdir(), f"macule-{os.geteuid()}")
        os.makedirs(folder, 0o700, exist_ok=True)
        return folder if os.lstat(folder).st_uid == os.geteuid() else None
    except OSError:
        return None
