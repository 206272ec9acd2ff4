"""The disk under the embedded queue: what may be taken in, and a reserve that lets it end.

Ending a job needs space before it gives any: SQLite writes every page that it clears into its log
first. The reserve is a file that holds this space. Where the disk is full it makes way for the
transaction, and is made anew after it. A new job is refused unless the reserve is whole.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path
from sqlite3 import Connection

from macule import jobs
from macule.errors import CannotFit, QueueFull, QueueUnavailable

MB = 2**20
FILE = "jobs.reserve"
LOG_BYTES = MB  # of SQLite's log, after which it is written into the file
# Always: that part of the log, small transactions, the log's index of 32 kB, 64 pages that move.
LEAST_BYTES = LOG_BYTES + MB // 2
PAGE_BYTES, LINK_BYTES, FRAME_BYTES = (
    4096,
    4,
    24,
)  # of SQLite: a page, its link, its head in the log
SPARE_PAGES = 16  # of tables and indexes, for one job


def span(size: int) -> int:
    """Return what *size* bytes of one job take, in the file as in the log."""
    pages = ceil(size / (PAGE_BYTES - LINK_BYTES)) + SPARE_PAGES
    return pages * (PAGE_BYTES + FRAME_BYTES)


class Space:
    """What the queue in *folder* may take: *most_bytes* at most, of a disk that others fill too.

    All is asked and done by whoever has SQLite's lock to write, so that no two do so at once.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._path = folder / FILE
        self._log = folder / (jobs.FILE + "-wal")
        self._most_bytes = most_bytes
        self._lent = False

    def held(self, database: Connection) -> int:
        """Return the bytes that are taken: by jobs, outcomes and webhooks, and by the reserve."""
        return (
            _pages(database, "page_count") - _pages(database, "freelist_count") + _size(self._path)
        )

    def admit(self, database: Connection, size: int, largest: int, waiting: int) -> None:
        """Make the reserve large enough for a job of *size* and the *largest* that waits.

        Raises: CannotFit, QueueFull, QueueUnavailable, with the figures.
        """
        takes, reserve = span(size), LEAST_BYTES + span(max(size, largest))
        limit_mb = _mb(self._most_bytes)
        if takes + reserve > self._most_bytes:
            why = "This prediction needs more space than all may take here (MAX_JOBS_MB)."
            raise CannotFit(why, needed_mb=_mb(takes + reserve), limit_mb=limit_mb)
        held = self.held(database) - _size(self._path) + reserve
        if held + takes > self._most_bytes:
            why = "Predictions take as much space here as they may (MAX_JOBS_MB). Try again later."
            raise QueueFull(why, waiting=waiting, held_mb=_mb(held), limit_mb=limit_mb)
        grows = max(0, takes - _pages(database, "freelist_count"))
        needed, free = grows + reserve + LEAST_BYTES, self._free() + _size(self._path)
        if free < needed or not self._hold(reserve):
            why = "The disk that keeps predictions is full (DATA_DIR). Try again later."
            raise QueueUnavailable(why, needed_mb=_mb(needed), free_mb=_mb(free))
        self.make_way(grows + takes)

    def make_way(self, size: int = 0) -> None:
        """Lend the reserve to what is written next: *size*, or an end; if there is no more."""
        if self._free() < LEAST_BYTES + (size or _size(self._path)):
            self._lent = True
            with suppress(FileNotFoundError):
                os.truncate(self._path, 0)

    def restore(self, largest: int) -> None:
        """Take the reserve back, if it was lent; another may have been faster."""
        if self._lent:
            self._lent = not self._hold(LEAST_BYTES + (span(largest) if largest else 0))

    def logged(self) -> bool:
        """Is the log so long that it should be written into the file?"""
        return _size(self._log) > LOG_BYTES

    def lent(self) -> bool:
        return self._lent

    def shrink(self) -> None:
        """Keep the least alone, as nothing waits."""
        if _size(self._path) > LEAST_BYTES:
            os.truncate(self._path, LEAST_BYTES)

    def _hold(self, size: int) -> bool:
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


def _pages(database: Connection, name: str) -> int:
    """Return the bytes of the pages that a PRAGMA counts."""
    (count,) = database.execute(f"PRAGMA {name}").fetchone()
    return int(count) * PAGE_BYTES


def _mb(size: int) -> float:
    return round(size / MB, 1)
