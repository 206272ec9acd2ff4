"""What a batch is of: a folder, a list or a bucket's prefix, as names in an order that stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from macule.errors import BadRequest, BodyTooLarge, Unreadable
from macule.registry import storage
from macule.settings import urls

QUIET_S = 20.0  # without a byte from a bucket
BUCKETS = ("s3://", "gs://")


class Source(NamedTuple):
    """Names to read images by, and how many, where that is known beforehand."""

    names: Iterator[str]
    total: int | None


def find(place: str, but: str) -> Source:
    """Name the images of *place*; the file *but*, which the answers go to, is none of them.

    Raises: BadRequest; the names too, and ModelUnavailable where a bucket cannot be listed.
    """
    if place.startswith(BUCKETS):
        if why := urls.refusal(place):
            raise BadRequest(f"{urls.shown(place)} {why}.")
        return Source(storage.list_addresses(place, QUIET_S), None)
    if place == "-":
        return Source(_names(sys.stdin.buffer), None)
    if os.path.isdir(place):
        return _folder(place, but)
    try:
        with open(place, "rb") as listed:
            return Source(_listed(place), sum(1 for _ in _names(listed)))
    except OSError as error:
        raise BadRequest(f"{place}: {error.strerror}.") from error


def read(name: str, max_bytes: int) -> bytes:
    """Read one image.

    Raises: Unreadable, BodyTooLarge; ModelUnavailable where its whole bucket cannot be read.
    """
    body = _fetch(name, max_bytes + 1) if "://" in name else _load(name, max_bytes + 1)
    if len(body) > max_bytes:
        raise BodyTooLarge(f"The file has more than {max_bytes:,} bytes (MAX_IMAGE_BYTES).")
    return body


def _load(name: str, most_bytes: int) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(most_bytes)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        raise Unreadable(f"{getattr(error, 'strerror', None) or 'No such file'}.") from error


def _fetch(address: str, most_bytes: int) -> bytes:
    if why := urls.refusal(address):
        raise Unreadable(f"The address {why}.")

    def once() -> bytes | None:
        found = storage.read(address, QUIET_S)
        if found is None:
            return None
        body = b""
        for piece in found[2]:
            body += piece
            if len(body) >= most_bytes:
                break
        return body

    body = storage.retry(once)
    if body is None:
        raise Unreadable("There is nothing at this address, or nothing that may be read.")
    return body


def _listed(path: str) -> Iterator[str]:
    with open(path, "rb") as file:
        yield from _names(file)


def _names(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if b"\0" in line:
            raise BadRequest("SOURCE is no list: it has bytes that no text has.")
        if name := line.strip():
            yield os.fsdecode(name)


def _folder(root: str, but: str) -> Source:
    """List in a temporary file, which SQLite sorts: a million names take no memory."""
    import sqlite3

    found = _sorted(_files(os.fsencode(root), os.fsencode(os.path.abspath(but))))
    try:
        count = int(next(found))
    except sqlite3.Error as error:
        raise BadRequest(f"The names in {root} cannot be kept and sorted: {error}.") from error
    return Source((os.fsdecode(path) for path in found), count)


def _sorted(paths: Iterator[bytes]) -> Iterator[bytes]:
    """Yield how many there are, and then each: whoever knows that has begun, so that it ends."""
    import sqlite3

    with closing(sqlite3.connect("")) as kept:
        kept.execute("CREATE TABLE found (path BLOB)")
        kept.executemany("INSERT INTO found VALUES (?)", ((path,) for path in paths))
        yield b"%d" % kept.execute("SELECT count(*) FROM found").fetchone()
        for (path,) in kept.execute("SELECT path FROM found ORDER BY path"):
            yield path


def _files(root: bytes, but: bytes) -> Iterator[bytes]:
    """Walk through folders, not through links to folders, which may lead round in circles."""
    folders = [root]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file() and os.path.abspath(entry.path) != but:
                        yield entry.path
        except OSError as error:
            raise BadRequest(f"{os.fsdecode(error.filename)}: {error.strerror}.") from error
