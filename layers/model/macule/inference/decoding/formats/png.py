"""PNG decoding in strips: Pillow's speed without holding the whole image.

Pillow decodes a PNG whole, 4 bytes per pixel. This module inflates the stream in blocks and passes
each strip to Pillow as a small PNG. Its first row is the last row of the previous strip, as PNG
filters refer to the row above only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Filters depend on the bytes per pixel only: rows with 1, 2, 3 or 4 of them are filtered like rows
# of 8 bits in this colour type and mode.
BYTES_TO_TYPE = {1: (0, "L"), 2: (4, "LA"), 3: (2, "RGB"), 4: (6, "RGBA")}
# Depth and colour type -> mode and raw mode in Pillow.
RAW = {
    (1, 0): ("1", "1"),
    (2, 0): ("L", "L;2"),
    (4, 0): ("L", "L;4"),
    (8, 0): ("L", "L"),
    (16, 0): ("I;16", "I;16B"),
    (8, 2): ("RGB", "RGB"),
    (1, 3): ("P", "P;1"),
    (2, 3): ("P", "P;2"),
    (4, 3): ("P", "P;4"),
    (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"),
    (8, 6): ("RGBA", "RGBA"),
}
INFLATED_BYTES = 2**18  # at once
METADATA_CHUNKS = {b"iCCP", b"iTXt", b"tEXt", b"zTXt"}
READ_BYTES = 2**16  # the compressed input is copied, so it is read in small blocks


class PngHeader(NamedTuple):
    """The header of a PNG: size in pixels, bits per channel, colour type, interlacing."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def row_bytes(self) -> int:
        return (self.width * self.depth * CHANNELS[self.colour] + 7) // 8

    @property
    def step_bytes(self) -> int:
        """Distance in bytes to the previous pixel, which filters refer to."""
        return max(1, self.depth * CHANNELS[self.colour] // 8)


def read_header(body: bytes) -> PngHeader | None:
    """Return the header; None for a PNG that is not decoded in strips: interlaced or 16-bit colour.

    Pillow detects an incorrect header.
    """
    if len(body) < 33 or body[:8] != SIGNATURE or body[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body[16:29])
    found = PngHeader(width, height, depth, colour, bool(interlace))
    return None if found.interlaced or (depth, colour) not in RAW else found


def exif(body: bytes) -> bytes:
    """Return the EXIF block; b"" if there is none.

    Pillow finds a block after the pixels only once it has decoded them.
    """
    return bytes(next(_chunks(body, b"eXIf"), b""))


def without_metadata(body: bytes) -> bytes:
    """Return the file without its texts and its colour profile."""
    kept = [
        body[start : start + size]
        for name, start, size in _chunk_offsets(body)
        if name not in METADATA_CHUNKS
    ]
    return SIGNATURE + b"".join(kept)


def coded_colour(body: bytes) -> tuple[int, int] | None:
    """Return colour primaries and transfer of the chunk cICP; None without one."""
    content = bytes(next(_chunks(body, b"cICP"), b""))
    return (content[0], content[1]) if len(content) == 4 else None


def strips(body: bytes, like: Image, rows: int, top: int, bottom: int) -> Iterator[Image]:
    """Decode the rows from *top* to *bottom*, *rows* at a time.

    *like*: the opened image, for its palette and its transparent colour.
    Raises: OSError for a truncated or damaged file.
    """
    from PIL.Image import frombytes

    found = read_header(body)
    if found is None:
        raise OSError("this PNG is not decoded by strips")
    mode, raw_mode = RAW[found.depth, found.colour]
    stream, before = _IdatReader(body), b""
    starts = [*range(0, top, rows), *range(top, bottom, rows), bottom]
    for start, end in pairwise(starts):
        count = end - start
        filtered = stream.read(count * (found.row_bytes + 1))
        plain = _unfilter(found, filtered, before)
        before = plain[-found.row_bytes :]
        if end <= top:
            continue
        strip = frombytes(mode, (found.width, count), plain, "raw", raw_mode)
        if mode == "P" and like.palette is not None:
            strip.putpalette(like.palette)
        if "transparency" in like.info:
            strip.info["transparency"] = like.info["transparency"]
        yield strip


def _unfilter(found: PngHeader, filtered: bytes, before: bytes) -> bytes:
    """Undo the filters of whole rows, with the row *before* them (b"" at the top)."""
    from PIL.PngImagePlugin import PngImageFile

    colour, mode = BYTES_TO_TYPE[found.step_bytes]
    above = b"\0" + before if before else b""
    count = (len(above) + len(filtered)) // (found.row_bytes + 1)
    width = found.row_bytes // found.step_bytes
    header = struct.pack(">IIBBBBB", width, count, 8, colour, 0, 0, 0)
    stored = zlib.compress(above + filtered, 0)
    file = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")
    image = PngImageFile(BytesIO(file))
    if image.mode != mode:
        raise OSError(f"a strip came back as {image.mode}")
    return image.tobytes()[len(before) :]


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checked)))


class _IdatReader:
    """Reader of the inflated IDAT data; inflates no more than is read."""

    def __init__(self, body: bytes) -> None:
        self._pieces = (
            data[place : place + READ_BYTES]
            for data in _chunks(body, b"IDAT")
            for place in range(0, len(data), READ_BYTES)
        )
        self._inflater = zlib.decompressobj()
        self._left = b""

    def read(self, size: int) -> bytes:
        """Return exactly *size* bytes.

        Raises: OSError if the data ends early or is damaged.
        """
        parts, missing = [], size
        while missing:
            if not self._left:
                self._left = bytes(next(self._pieces, b""))
            if not self._left or self._inflater.eof:
                raise OSError(f"the image data ends {missing} bytes early")
            try:
                part = self._inflater.decompress(self._left, min(missing, INFLATED_BYTES))
            except zlib.error as error:
                raise OSError("the image data is damaged") from error
            self._left = self._inflater.unconsumed_tail
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)


def _chunks(body: bytes, wanted: bytes) -> Iterator[memoryview]:
    """Yield the contents of the chunks of one kind; the last may be truncated."""
    view = memoryview(body)
    for kind, start, size in _chunk_offsets(body):
        if kind == wanted:
            yield view[start + 8 : start + size - 4]


def _chunk_offsets(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and size of each chunk."""
    place = len(SIGNATURE)
    while place + 12 <= len(body):
        (length,) = struct.unpack_from(">I", body, place)
        kind = body[place + 4 : place + 8]
        yield kind, place, length + 12
        if kind == b"IEND":
            return
        place += 12 + length
