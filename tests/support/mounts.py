"""Disks for one test: file systems of any size, in private mounts."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest


def may_mount() -> bool:
    """Return whether this user may create mounts."""
    words = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(not may_mount(), reason="mounts of one's own need root and unshare")


def fill(path: Path) -> None:
    """Write *path* until its disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
