"""The images of a batch: a folder, a list or a bucket prefix, in a stable order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from macule.errors import BadRequest, BodyTooLarge, Unreadable
from macule.registry import storage
from macule.settings import urls

READ_TIMEOUT_S = 20.0  # without a byte from the bucket
BUCKET_SCHEMES = ("s3://", "gs://")


class Source(NamedTuple):
    """The names of the images, and their number if known in advance."""

    names: Iterator[str]
    total: int | None


def list_images(place: str, exclude: str) -> Source:
    """List the images of *place*, without the output file *exclude*.

    Raises: BadRequest; so does iteration, and ModelUnavailable if a bucket cannot be listed.
    """
    if place.startswith(BUCKET_SCHEMES):
        if why := urls.rejection_reason(place):
            raise BadRequest(f"{urls.redact(place)} {why}.")
        return Source(storage.list_addresses(place, READ_TIMEOUT_S), None)
    if place == "-":
        return Source(_parse_names(sys.stdin.buffer), None)
    if os.path.isdir(place):
        return _folder(place, exclude)
    try:
        with open(place, "rb") as listed:
            return Source(_names_in_file(place), sum(1 for _ in _parse_names(listed)))
    except OSError as error:
        raise BadRequest(f"{place}: {error.strerror}.") from error


def read_image(name: str, max_bytes: int) -> bytes:
    """Read one image.

    Raises: Unreadable, BodyTooLarge; ModelUnavailable if the whole bucket cannot be read.
    """
    body = _read_url(name, max_bytes + 1) if "://" in name else _read_file(name, max_bytes + 1)
    if len(body) > max_bytes:
        raise BodyTooLarge(f"The file has more than {max_bytes:,} bytes (MAX_IMAGE_BYTES).")
    return body


def _read_file(name: str, max_bytes: int) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(max_bytes)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise Unreadable(f"{getattr(error, 'strerror', None) or 'No such file'}.") from error


def _read_url(address: str, max_bytes: int) -> bytes:
    if why := urls.rejection_reason(address):
        raise Unreadable(f"The address {why}.")

    def once() -> bytes | None:
        found = storage.read(address, READ_TIMEOUT_S)
        if found is None:
            return None
        body = b""
        for piece in found[2]:
            body += piece
            if len(body) >= max_bytes:
                break
        return body

    body = storage.retry(once)
    if body is None:
        raise Unreadable("There is no object at this address, or no permission to read it.")
    return body


def _names_in_file(path: str) -> Iterator[str]:
    with open(path, "rb") as file:
        yield from _parse_names(file)


def _parse_names(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if b"\0" in line:
            raise BadRequest("SOURCE is not a text list: it contains null bytes.")
        if name := line.strip():
            yield os.fsdecode(name)


def _folder(root: str, exclude: str) -> Source:
    """List a folder through a temporary SQLite file, so that a million names take no memory."""
    import sqlite3

    found = _sorted_paths(_walk(os.fsencode(root), os.fsencode(os.path.abspath(exclude))))
    try:
        count = int(next(found))
    except sqlite3.Error as error:
        raise BadRequest(f"The names in {root} cannot be sorted: {error}.") from error
    return Source((os.fsdecode(path) for path in found), count)


def _sorted_paths(paths: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the number of paths, then each path in order."""
    import sqlite3

    with closing(sqlite3.connect("")) as database:
        database.execute("CREATE TABLE found (path BLOB)")
        database.executemany("INSERT INTO found VALUES (?)", ((path,) for path in paths))
        yield b"%d" % database.execute("SELECT count(*) FROM found").fetchone()
        for (path,) in database.execute("SELECT path FROM found ORDER BY path"):
            yield path


def _walk(root: bytes, exclude: bytes) -> Iterator[bytes]:
    """Yield the files below *root*; do not follow links to folders, which may form cycles."""
    folders = [root]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file() and os.path.abspath(entry.path) != exclude:
                        yield entry.path
        except OSError as error:
            raise BadRequest(f"{os.fsdecode(error.filename)}: {error.strerror}.") from error
