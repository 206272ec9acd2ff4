"""Whether a process that claimed something still lives, told by a lock and by no clock.

The kernel drops a dead process's locks, however it died; a machine that slept drops none.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

PREFIX = "alive-"


def mark(folder: Path) -> str:
    """Tell others in *folder* that this process lives, until it does not.

    A fork does not share its parent's mark: the child makes its own. Marks of the dead go.
    Returns: the token that `dead` takes.
    """
    while True:
        token = os.urandom(8).hex()
        path = folder / (PREFIX + token)
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # or another process took it for a dead one's before the lock was on
            break
        os.close(file)
    os.register_at_fork(after_in_child=partial(os.close, file))  # it would outlive its parent
    for other in folder.glob(PREFIX + "*"):
        dead(folder, other.name.removeprefix(PREFIX))
    return token


def dead(folder: Path, token: str) -> bool:
    """Is the process gone that made this mark? If so, the mark goes too."""
    path = folder / (PREFIX + token)
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: of two who ask, neither errs
    except BlockingIOError:
        return False
    else:
        with suppress(FileNotFoundError):
            path.unlink()
        return True
    finally:
        os.close(file)
