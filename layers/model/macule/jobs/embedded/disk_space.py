"""Disk space of the embedded queue: admission of jobs, and a reserve for ending them.

Ending a job needs space before it frees any, because SQLite first writes each cleared page to its
log. The reserve is a file that holds this space. If the disk is full, it is truncated for the
transaction and allocated again afterwards. A new job is rejected unless the reserve is complete.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path
from sqlite3 import Connection

from macule import jobs
from macule.errors import QueueUnavailable

RESERVE_FILE = "jobs.reserve"
LOG_BYTES = jobs.MB  # of SQLite's log before a checkpoint
# The log before a checkpoint, small transactions, the log's 32 kB index, 64 moved pages.
MIN_RESERVE_BYTES = LOG_BYTES + jobs.MB // 2
# SQLite: a page, the link in an overflow page, the frame header in the log.
PAGE_BYTES, LINK_BYTES, FRAME_BYTES = 4096, 4, 24
SPARE_PAGES = 16  # of tables and indexes, per job


def allocated_bytes(size: int) -> int:
    """Return the bytes that *size* bytes of one job take, in the file or in the log."""
    pages = ceil(size / (PAGE_BYTES - LINK_BYTES)) + SPARE_PAGES
    return pages * (PAGE_BYTES + FRAME_BYTES)


class DiskSpace:
    """Space for the queue in *folder*: at most *max_bytes*, on a disk that others also fill.

    Callers hold SQLite's write lock, so only one process uses this at a time.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._path = folder / RESERVE_FILE
        self._log = folder / (jobs.DATABASE_FILE + "-wal")
        self._most_bytes = max_bytes
        self._released = False

    def used_bytes(self, db: Connection) -> int:
        """Return the bytes of jobs, outcomes, webhooks and the reserve."""
        used = _pages(db, "page_count") - _pages(db, "freelist_count")
        return used + _size(self._path)

    def admit(self, db: Connection, size: int, largest: int, waiting: int) -> None:
        """Check that a job of *size* fits, and grow the reserve to end it or the *largest* one.

        Raises: CannotFit, QueueFull, QueueUnavailable, with the figures.
        """
        takes = allocated_bytes(size)
        reserve = MIN_RESERVE_BYTES + allocated_bytes(max(size, largest))
        used = self.used_bytes(db) - _size(self._path) + reserve
        if max(used, reserve) + takes > self._most_bytes:
            raise jobs.out_of_space(takes + reserve, used, self._most_bytes, waiting)
        grows = max(0, takes - _pages(db, "freelist_count"))
        needed, free = grows + reserve + MIN_RESERVE_BYTES, self._free() + _size(self._path)
        if free < needed or not self._allocate(reserve):
            why = "The disk of the queue is full (DATA_DIR). Try again later."
            raise QueueUnavailable(why, needed_mb=jobs.mb(needed), free_mb=jobs.mb(free))
        self.release_reserve(grows + takes)

    def release_reserve(self, size: int = 0) -> None:
        """Free the reserve if the disk lacks space for *size* bytes, or by default to end a job."""
        if self._free() < MIN_RESERVE_BYTES + (size or _size(self._path)):
            self._released = True
            with suppress(FileNotFoundError):
                os.truncate(self._path, 0)

    def restore_reserve(self, largest: int) -> None:
        """Allocate a released reserve again; another process may take the space first."""
        if self._released:
            size = MIN_RESERVE_BYTES + (allocated_bytes(largest) if largest else 0)
            self._released = not self._allocate(size)

    def log_is_long(self) -> bool:
        return _size(self._log) > LOG_BYTES

    def reserve_released(self) -> bool:
        return self._released

    def shrink_reserve(self) -> None:
        """Shrink the reserve to its minimum, when no job waits."""
        if _size(self._path) > MIN_RESERVE_BYTES:
            os.truncate(self._path, MIN_RESERVE_BYTES)

    def _allocate(self, size: int) -> bool:
        before = _size(self._path)
        if before >= size:
            return True
        file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            os.truncate(file, before)
            return False
        finally:
            os.close(file)
        return True

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _pages(db: Connection, name: str) -> int:
    """Return the size in bytes of the pages that a PRAGMA counts."""
    (count,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(count) * PAGE_BYTES
