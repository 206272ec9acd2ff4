"""The rows of a batch as they come: in the order of its source, so their number says where it is.

A line of JSON each, after one that says what the batch is of. Whatever kills the process, the
lines up to the first that is not whole are right; the others are scored again.
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

from macule.batch.score import Row, shown
from macule.errors import BadRequest

SYNC_S = 1.0  # a power cut takes the rows of the last second, a kill those not yet handed over


def path(out: str) -> str:
    """Say where the journal of *out* lies: beside it, hidden."""
    return os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.part")


class Journal:
    """One run's hold on a journal; `tally` counts its rows by status.

    Args:
      header: what must not change between the runs of a batch.
    Raises: BadRequest where another run holds it, or it is of another batch; all methods where the
      disk refuses.
    """

    def __init__(self, out: str, header: Mapping[str, Any], restart: bool) -> None:
        self.tally: dict[str, int] = {}
        self._out = out
        self._path = path(out)
        with self._writing():
            if os.path.exists(out) and not os.path.exists(self._path) and not restart:
                raise BadRequest(f"{out} is finished. --restart makes it anew.")
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                self._alone()
                if restart:
                    self._file.truncate(0)
                self._begin(header)
            except BaseException:
                self._file.close()
                raise
        self._synced = time.monotonic()

    @property
    def count(self) -> int:
        return sum(self.tally.values())

    def resume(self, names: Iterator[str]) -> None:
        """Take as many of *names* as there are rows already, and check that they are those.

        Raises: BadRequest where the source has changed.
        """
        for row in self._rows():
            name = next(names, None)
            if name is None or shown(name) != row["source"]:
                raise BadRequest(
                    f"SOURCE has changed: image {self.count + 1} was {row['source']}, and is "
                    f"{'no more' if name is None else shown(name)}. --restart begins anew."
                )
            self._count(row)

    def append(self, row: Row) -> None:
        with self._writing():
            self._file.write(_line(row))
            self._file.flush()
            if time.monotonic() > self._synced + SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        self._count(row)

    def lines(self) -> Iterator[bytes]:
        """Return the rows as they are written."""
        self._file.seek(0)
        return islice(self._file, 1, None)

    @contextmanager
    def finished(self) -> Iterator[str]:
        """Yield a file to be written from `lines`; it takes *out*'s place, and the journal goes."""
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

    def _alone(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadRequest(f"Another run is writing {self._out}.") from error

    def _begin(self, header: Mapping[str, Any]) -> None:
        found = _parsed(self._file.readline())
        if found is None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(_line(header))
            self._file.flush()
        elif changed := [key for key in header if found.get(key) != header[key]]:
            told = "; ".join(f"{key} was {found.get(key)}, is {header[key]}" for key in changed)
            raise BadRequest(
                f"{self._out} was begun otherwise: {told}. Go on as it was begun, or begin anew "
                "with --restart."
            )

    def _rows(self) -> Iterator[Row]:
        """Read what is there; what follows the last whole line goes."""
        end = self._file.tell()
        while row := _parsed(self._file.readline()):
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


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Read a line that was written whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and line.endswith(b"\n") else None
