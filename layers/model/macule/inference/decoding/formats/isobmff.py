"""Parser for the boxes of HEIC and AVIF (ISO/IEC 14496-12, 23008-12): items, streams, colour.

libheif and libavif allocate the size in the coded stream, whatever the container says, so the
memory cost is read from the streams first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_META_BYTES = 2**22
MAX_ITEMS, MAX_EXTENTS = 4096, 65536  # a phone's photo of 200 MP has 800 tiles
# Boxes that contain boxes -> offset of the first one.
CONTAINERS = {b"iprp": 0, b"ipco": 0}
FULL_BOX_BYTES = 4


class Item(NamedTuple):
    """A coded picture, or a grid of others: its type and its bytes."""

    kind: bytes
    parts: tuple[memoryview, ...]


def brands(body: bytes) -> list[bytes]:
    """Return the brands of the box `ftyp`, the major one first; [] without such a box."""
    if body[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(body[:4], "big"), 256)
    return [body[place : place + 4] for place in (8, *range(16, end, 4))]


def properties(body: bytes, kind: bytes) -> list[memoryview]:
    """Return the contents of all properties of one kind.

    Raises: ValueError, struct.error if the file has no box `meta`.
    """
    return [content for name, content in _boxes(_meta(body)) if name == kind]


def coded_colour(body: bytes) -> tuple[int, int] | None:
    """Return colour primaries and transfer of the `nclx` box; None without one."""
    for content in properties(body, b"colr"):
        if bytes(content[:4]) == b"nclx" and len(content) >= 8:
            primaries, transfer = struct.unpack_from(">HH", content, 4)
            return primaries, transfer
    return None


def items(body: bytes) -> list[Item]:
    """Return all items.

    Raises: ValueError, struct.error if a box is malformed.
    """
    boxes = dict(_boxes(_meta(body)))
    kinds = dict(_item_types(boxes[b"iinf"]))
    inside = boxes.get(b"idat", memoryview(b""))
    return [
        Item(kinds.get(name, b""), parts)
        for name, parts in _item_extents(boxes[b"iloc"], memoryview(body), inside)
    ]


def _meta(body: bytes) -> memoryview:
    for name, content in _boxes(memoryview(body), whole=False):
        if name == b"meta":
            if len(content) > MAX_META_BYTES:
                raise ValueError(f"a box meta of {len(content)} bytes")
            return content[FULL_BOX_BYTES:]
    raise ValueError("the file has no box meta")


def _boxes(view: memoryview, whole: bool = True) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of each box, and of those within CONTAINERS."""
    place = 0
    while place + 8 <= len(view):
        size, kind = struct.unpack_from(">I4s", view, place)
        start = place + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", view, start)
            start += 8
        end = len(view) if size == 0 else place + size
        if end < start:
            raise ValueError("a box ends before it begins")
        content = view[start:end]
        yield kind, content
        if whole and kind in CONTAINERS:
            yield from _boxes(content[CONTAINERS[kind] :])
        place = end


def _item_types(content: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield number and type of each item of a box `iinf`."""
    skipped = FULL_BOX_BYTES + (2 if content[0] == 0 else 4)
    for kind, entry in _boxes(content[skipped:]):
        if kind == b"infe" and entry[0] in (2, 3):
            form = ">4xHH4s" if entry[0] == 2 else ">4xIH4s"
            number, _, name = struct.unpack_from(form, entry)
            yield number, name


def _item_extents(
    content: memoryview, file: memoryview, inside: memoryview
) -> Iterator[tuple[int, tuple[memoryview, ...]]]:
    """Yield number and bytes of each item of a box `iloc`."""
    version, reader = content[0], _Reader(content[FULL_BOX_BYTES:])
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    count, extents = reader.number(4 if version == 2 else 2), 0
    if count > MAX_ITEMS:
        raise ValueError(f"{count} items")
    for _ in range(count):
        number = reader.number(4 if version == 2 else 2)
        method = reader.number(2) & 15 if version else 0
        reader.number(2)  # data reference index: this file
        base = reader.number(base_size)
        parts, source = [], inside if method == 1 else file
        for _ in range(reader.number(2)):
            extents += 1
            if extents > MAX_EXTENTS or method > 1:
                raise ValueError("an item in pieces, or made of others")
            reader.number(index_size)
            start = base + reader.number(offset_size)
            length = reader.number(length_size)
            parts.append(source[start : start + length if length else None])
        yield number, tuple(parts)


class _Reader:
    """Sequential reader of big-endian numbers of any size."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._place = view, 0

    def number(self, size: int) -> int:
        """Read a number of *size* bytes.

        Raises: ValueError at the end.
        """
        end = self._place + size
        if end > len(self._view):
            raise ValueError("a box ends early")
        found = int.from_bytes(self._view[self._place : end], "big")
        self._place = end
        return found


class Bits:
    """Bit reader, most significant bit first."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def read(self, count: int) -> int:
        """Read *count* bits.

        Raises: ValueError at the end.
        """
        self._left -= count
        if self._left < 0:
            raise ValueError("a header ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Read an unsigned Exp-Golomb code (HEVC: ue(v); AV1: uvlc())."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
