"""Counters in memory shared by all processes of the service.

Each process writes its own row, so processes need no common lock. A process owns a row by locking
one byte of the file. The kernel releases that lock when the process ends, and the next process
continues counting in the row.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from threading import RLock

KEY_BYTES, SLOT_BYTES = 72, 80  # a slot: a double, then its key
SLOTS = 800  # per row, more than the bounded labels need; unused slots take no memory
ROW_BYTES = SLOTS * SLOT_BYTES
GAUGE_PREFIX = "~"  # of the keys of gauges


class SharedCounters:
    """Numbers by key, with one row for each of at most *rows* live processes.

    Args:
      file: descriptor inherited over `exec`, to continue its counts.
    """

    def __init__(self, rows: int, file: int | None = None) -> None:
        import mmap

        size = rows * ROW_BYTES + 8
        self._file, self._rows = _inherited_file(file, size) or _new_file(), rows
        if self._file is None:  # no shared memory: each process counts alone
            self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            os.ftruncate(self._file, size)
            self._map = mmap.mmap(self._file, size)
        self._numbers = memoryview(self._map).cast("d")
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def inherit(self) -> int | None:
        """Make the file inheritable over `exec` and return it; None if there is no file."""
        if self._file is not None:
            os.set_inheritable(self._file, True)
        return self._file

    def add(self, *amounts: tuple[str, float]) -> None:
        """Add (key, amount) pairs to the counters of this process."""
        with self._lock:
            for key, amount in amounts:
                self._numbers[self._offsets.get(key) or self._offset(key)] += amount

    def register_gauge(self, key: str, measure: Callable[[], float]) -> None:
        """Register a gauge that `refresh` measures; it counts only while its process lives."""
        with self._lock:
            self._gauges[GAUGE_PREFIX + key] = measure

    def refresh(self) -> None:
        """Measure all gauges; under the lock, so that no older value is written later."""
        with self._lock:
            for key, measure in self._gauges.items():
                self._numbers[self._offset(key)] = measure()

    def sums(self) -> dict[str, float]:
        """Sum each counter over all rows, and each gauge over the rows of live processes."""
        sums = dict[str, float]()
        for row in range(self._rows):
            with self._lock:  # probing a lock would release one that another thread takes
                alive = row == self._row or not self._lock_row(row, False)
                for key, offset in self._read_offsets(row).items():
                    if alive or key[0] != GAUGE_PREFIX:
                        name = key.removeprefix(GAUGE_PREFIX)
                        sums[name] = sums.get(name, 0.0) + self._numbers[offset]
        return sums

    def _reset(self) -> None:
        """Start without a row; a forked child does not share its parent's."""
        self._lock = RLock()
        self._row = -1
        self._offsets: dict[str, int] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def _offset(self, key: str) -> int:
        """Return the offset of *key* in this process's row; the caller holds the lock."""
        if self._row < 0:
            self._row = next((row for row in range(self._rows) if self._lock_row(row)), self._rows)
            self._offsets = self._read_offsets(self._row)
            for known, offset in self._offsets.items():
                if known[0] == GAUGE_PREFIX:  # left by the row's previous process
                    self._numbers[offset] = 0.0
        if key not in self._offsets:
            self._allocate(key)
        return self._offsets[key]

    def _allocate(self, key: str) -> None:
        """Write a new key, then the slot count: the process may be killed between any two lines."""
        start, name = self._row * ROW_BYTES, key.encode()
        used = int(self._numbers[start // 8]) + 1
        at = start + used * SLOT_BYTES
        if self._row == self._rows or used >= SLOTS or len(name) > KEY_BYTES:
            self._offsets[key] = self._rows * ROW_BYTES // 8  # no slot: a number never read
            return
        self._map[at + 8 : at + SLOT_BYTES] = name.ljust(KEY_BYTES, b"\0")
        self._numbers[at // 8] = 0.0
        self._numbers[start // 8] = used
        self._offsets[key] = at // 8

    def _read_offsets(self, row: int) -> dict[str, int]:
        """Return the offsets of a row by key; its first number is the count of slots in use."""
        start = row * ROW_BYTES
        used = int(self._numbers[start // 8]) if row < self._rows else 0
        slots = range(start + SLOT_BYTES, start + (used + 1) * SLOT_BYTES, SLOT_BYTES)
        return {self._map[at + 8 : at + SLOT_BYTES].rstrip(b"\0").decode(): at // 8 for at in slots}

    def _lock_row(self, row: int, keep: bool = True) -> bool:
        """Lock a row that no live process owns; without *keep* only test whether it is free."""
        if self._file is None:
            return True
        kind = fcntl.LOCK_EX if keep else fcntl.LOCK_SH  # shared: two probes do not conflict
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, row)
        except OSError:
            return False
        if not keep:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, row)
        return True


def _inherited_file(file: int | None, size: int) -> int | None:
    """Return the inherited descriptor if the file has the expected size."""
    with suppress(OSError):
        return file if file is not None and os.fstat(file).st_size == size else None
    return None


def _new_file() -> int | None:
    """Open an unnamed file that forks share and whose bytes can be locked."""
    with suppress(AttributeError, OSError):  # Linux only
        return os.memfd_create("macule-metrics")
    with suppress(OSError):
        from tempfile import mkstemp

        file, path = mkstemp()
        os.unlink(path)
        return file
    return None
