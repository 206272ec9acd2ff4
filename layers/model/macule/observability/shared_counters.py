"""Numbers that all processes of the service add to, in memory that they share.

Each process writes a row of its own, so no lock crosses processes. A row is whose process holds the
lock on its byte; the kernel drops that however the process ends, and the next one counts on there.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from threading import RLock

KEY_BYTES, CELL_BYTES = 72, 80  # a cell: a double, then its key
CELLS = 800  # of a row, more than bounded labels fill; memory is taken for those that are used
ROW_BYTES = CELLS * CELL_BYTES
LIVE = "~"  # before the key of what is measured, not counted


class Cells:
    """Numbers by key: a row of them for each of at most *rows* processes that live at once.

    Args:
      file: of a process that this one was by `exec`: what that counted goes on.
    """

    def __init__(self, rows: int, file: int | None = None) -> None:
        import mmap

        size = rows * ROW_BYTES + 8
        self._file, self._rows = _known_file(file, size) or _file(), rows
        if self._file is None:  # nothing to share: each process counts for itself
            self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            os.ftruncate(self._file, size)
            self._map = mmap.mmap(self._file, size)
        self._numbers = memoryview(self._map).cast("d")
        self._fresh()
        os.register_at_fork(after_in_child=self._fresh)

    def keep(self) -> int | None:
        """Return the file, which now stays open over `exec`; None where nothing can be kept."""
        if self._file is not None:
            os.set_inheritable(self._file, True)
        return self._file

    def add(self, *amounts: tuple[str, float]) -> None:
        """Add to numbers of this process, each by its key."""
        with self._lock:
            for key, amount in amounts:
                self._numbers[self._places.get(key) or self._place(key)] += amount

    def live(self, key: str, measure: Callable[[], float]) -> None:
        """Have *measure* say at each `look` what a number is; it ends with its process."""
        with self._lock:
            self._live[LIVE + key] = measure

    def look(self) -> None:
        """Write what is measured now; under the lock, so that nothing older comes after it."""
        with self._lock:
            for key, measure in self._live.items():
                self._numbers[self._place(key)] = measure()

    def sums(self) -> dict[str, float]:
        """Sum each number over all rows; what was measured, over those of living processes."""
        sums = dict[str, float]()
        for row in range(self._rows):
            with self._lock:  # a test of a lock would drop one that another thread takes
                alive = row == self._row or not self._take(row, False)
                for key, place in self._known(row).items():
                    if alive or key[0] != LIVE:
                        name = key.removeprefix(LIVE)
                        sums[name] = sums.get(name, 0.0) + self._numbers[place]
        return sums

    def _fresh(self) -> None:
        """Begin as a process that has no row yet: a fork leaves its parent's to it."""
        self._lock = RLock()
        self._row = -1
        self._places: dict[str, int] = {}
        self._live: dict[str, Callable[[], float]] = {}

    def _place(self, key: str) -> int:
        """Find this process's number *key*, or make it; the caller holds the lock."""
        if self._row < 0:
            self._row = next((row for row in range(self._rows) if self._take(row)), self._rows)
            self._places = self._known(self._row)
            for known, place in self._places.items():
                if known[0] == LIVE:  # of the process before
                    self._numbers[place] = 0.0
        if key not in self._places:
            self._make(key)
        return self._places[key]

    def _make(self, key: str) -> None:
        """Write a new key, and then that it is there: a process may be killed at any line."""
        start, name = self._row * ROW_BYTES, key.encode()
        used = int(self._numbers[start // 8]) + 1
        at = start + used * CELL_BYTES
        if self._row == self._rows or used >= CELLS or len(name) > KEY_BYTES:
            self._places[key] = self._rows * ROW_BYTES // 8  # no room: which nobody reads
            return
        self._map[at + 8 : at + CELL_BYTES] = name.ljust(KEY_BYTES, b"\0")
        self._numbers[at // 8] = 0.0
        self._numbers[start // 8] = used
        self._places[key] = at // 8

    def _known(self, row: int) -> dict[str, int]:
        """Find the numbers of a row; its first says how many others there are."""
        start = row * ROW_BYTES
        used = int(self._numbers[start // 8]) if row < self._rows else 0
        cells = range(start + CELL_BYTES, start + (used + 1) * CELL_BYTES, CELL_BYTES)
        return {self._map[at + 8 : at + CELL_BYTES].rstrip(b"\0").decode(): at // 8 for at in cells}

    def _take(self, row: int, keeps: bool = True) -> bool:
        """Take a row that no living process has; or only say whether that could be."""
        if self._file is None:
            return True
        kind = fcntl.LOCK_EX if keeps else fcntl.LOCK_SH  # of two who ask, neither errs
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, row)
        except OSError:
            return False
        if not keeps:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, row)
        return True


def _known_file(file: int | None, size: int) -> int | None:
    """Return a file that was kept, if it is one of this form."""
    with suppress(OSError):
        return file if file is not None and os.fstat(file).st_size == size else None
    return None


def _file() -> int | None:
    """Open memory that forks share and whose bytes can be locked: a file without a name."""
    with suppress(AttributeError, OSError):  # it is Linux's own
        return os.memfd_create("macule-metrics")
    with suppress(OSError):
        from tempfile import mkstemp

        file, path = mkstemp()
        os.unlink(path)
        return file
    return None
