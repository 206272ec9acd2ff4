"""Process liveness by file locks, without timeouts.

The kernel releases the locks of a dead process; a machine that was suspended keeps them.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

PREFIX = "alive-"


def acquire(folder: Path) -> str:
    """Create and lock a file in *folder* that shows that this process is alive.

    A forked child does not share its parent's lock and needs its own. Deletes files of dead
    processes.
    Returns: the token that `is_dead` takes.
    """
    while True:
        token = os.urandom(8).hex()
        path = folder / (PREFIX + token)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else another process deleted it before it was locked
            break
        os.close(file)
    # a child's copy would keep the lock
    os.register_at_fork(after_in_child=partial(os.close, file))
    for other in folder.glob(PREFIX + "*"):
        is_dead(folder, other.name.removeprefix(PREFIX))
    return token


def is_dead(folder: Path, token: str) -> bool:
    """Return whether the process of *token* is dead; delete its file if so."""
    path = folder / (PREFIX + token)
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two probes do not conflict
    except BlockingIOError:
        return False
    else:
        with suppress(FileNotFoundError):
            path.unlink()
        return True
    finally:
        os.close(file)
