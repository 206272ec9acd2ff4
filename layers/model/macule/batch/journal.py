"""The journal of a batch: its rows so far, in the order of the source, as JSON lines.

The first line is a header that identifies the batch. After a crash, complete lines are valid; an
incomplete last line is dropped and its image is scored again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from macule.batch.score import Row, printable
from macule.errors import BadRequest

SYNC_S = 1.0  # a power cut loses the rows of the last second


def journal_path(out: str) -> str:
    """Return the path of the journal of *out*: a hidden file beside it."""
    return os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.part")


class Journal:
    """A journal, locked by this run; `tally` counts its rows by status.

    Args:
      header: values that must be the same in all runs of a batch.
    Raises: BadRequest if another run has it locked or it belongs to another batch; all methods on
      disk errors.
    """

    def __init__(self, out: str, header: Mapping[str, Any], restart: bool) -> None:
        self.tally: dict[str, int] = {}
        self._out = out
        self._path = journal_path(out)
        with self._writing():
            if os.path.exists(out) and not os.path.exists(self._path) and not restart:
                raise BadRequest(f"{out} is finished. Use --restart to score it again.")
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                self._acquire_lock()
                if restart:
                    self._file.truncate(0)
                self._check_header(header)
            except BaseException:
                self._file.close()
                raise
        self._synced = time.monotonic()

    @property
    def count(self) -> int:
        return sum(self.tally.values())

    def resume(self, names: Iterator[str]) -> None:
        """Skip the *names* of existing rows, and check that they match.

        Raises: BadRequest if the source has changed.
        """
        for row in self._rows():
            name = next(names, None)
            if name is None or printable(name) != row["source"]:
                raise BadRequest(
                    f"SOURCE has changed: image {self.count + 1} was {row['source']}, now it is "
                    f"{'missing' if name is None else printable(name)}. --restart starts over."
                )
            self._count(row)

    def append(self, row: Row) -> None:
        with self._writing():
            self._file.write(_encode_line(row))
            self._file.flush()
            if time.monotonic() > self._synced + SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        self._count(row)

    def lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        return islice(self._file, 1, None)

    @contextmanager
    def finished(self) -> Iterator[str]:
        """Yield a path to write the table to; then replace *out* with it and delete the journal."""
        new = f"{self._path}.new"
        with self._writing():
            try:
                yield new
                with open(new, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(new, self._out)
            except BaseException:
                with suppress(OSError):
                    os.unlink(new)
                raise
            os.unlink(self._path)

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()

    def _acquire_lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadRequest(f"Another run is writing {self._out}.") from error

    def _check_header(self, header: Mapping[str, Any]) -> None:
        found = _parse_line(self._file.readline())
        if found is None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(_encode_line(header))
            self._file.flush()
        elif changed := [key for key in header if found.get(key) != header[key]]:
            changes = "; ".join(f"{key} was {found.get(key)}, is {header[key]}" for key in changed)
            raise BadRequest(
                f"{self._out} was started with other values: {changes}. Use the same values, or "
                "start over with --restart."
            )

    def _rows(self) -> Iterator[Row]:
        """Yield the existing rows; truncate after the last complete line."""
        end = self._file.tell()
        while row := _parse_line(self._file.readline()):
            yield row
            end = self._file.tell()
        with self._writing():
            self._file.seek(end)
            self._file.truncate()

    def _count(self, row: Row) -> None:
        self.tally[row["status"]] = self.tally.get(row["status"], 0) + 1

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BadRequest(f"{self._out} cannot be written: {error.strerror}.") from error


def _encode_line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Parse a line; return None if it is incomplete."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and line.endswith(b"\n") else None
