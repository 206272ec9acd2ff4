"""Detection of model files that crash or hang the processes that run them.

While a process loads a file and runs it for the first time, it holds a locked marker file; the
kernel releases the lock when the process dies. After two deaths a file is refused for a while, as
otherwise each new gunicorn worker would crash too. A load that hangs holds Python's GIL and blocks
the whole process, so a kernel timer ends it.
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

MAX_DEATHS = 2  # a single one may have another cause: lack of memory, a kill by an operator
PAUSE_S, MAX_DOUBLINGS = 300.0, 4
MAX_TRIAL_S = 15.0  # 10 ms are usual; with a tenth of a CPU and a cold disk it takes a second


@contextmanager
def guard(path: str, digest: str, first_run: bool = False) -> Iterator[None]:
    """Hold a marker for the file at *path* during the block; the default model needs none.

    A successful first run removes the markers of earlier deaths.
    Raises: ModelUnavailable if the file has caused too many deaths.
    """
    folder = None if os.path.dirname(path) == local.DEFAULT_MODEL_DIR else _folder()
    if folder is None:
        yield
        return
    from glob import escape, glob

    prefix = os.path.join(folder, f"trial-{digest[:16]}-")
    dead = [mark for mark in glob(f"{escape(prefix)}*") if _is_dead(mark)]
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
    except OSError:  # another process has removed it after a successful run
        return math.inf


@contextmanager
def _held_mark(prefix: str) -> Iterator[None]:
    """Hold a marker, and end this process after MAX_TRIAL_S; an unwritable disk is no error."""
    import fcntl

    path, file = f"{prefix}{os.urandom(6).hex()}", -1
    with suppress(OSError):
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
    signal.setitimer(signal.ITIMER_REAL, MAX_TRIAL_S)  # SIGALRM has no handler and ends the process
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if file >= 0:
            with suppress(OSError):
                os.unlink(path)
            os.close(file)


def _is_dead(mark: str) -> bool:
    import fcntl

    try:
        file = os.open(mark, os.O_RDWR)
    except OSError:
        return False  # its process lives, and has just finished
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.path.exists(mark)
    except OSError:
        return False
    finally:
        os.close(file)


def _folder() -> str | None:
    """Return the temporary folder of this user; None if it cannot be created."""
    from tempfile import gettempdir

    try:
        folder = os.path.join(gettempdir(), f"macule-{os.geteuid()}")
        os.makedirs(folder, 0o700, exist_ok=True)
        return folder if os.lstat(folder).st_uid == os.geteuid() else None
    except OSError:
        return None
