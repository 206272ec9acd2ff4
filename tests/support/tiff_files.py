"""TIFF files that Pillow would not write: any strips, tiles and compression."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO

from macule.inference.decoding.formats.tiff import COMPRESSION, STRIP_ROWS, TILE_ROWS, TILE_WIDTH

JPEG, DEFLATE, LZMA = 7, 8, 34925
SHORT, LONG = 3, 4
PHOTOMETRIC, RGB, YCBCR = 262, 2, 6


def in_strips(width: int, height: int, strips: Sequence[bytes], compression: int) -> bytes:
    """Write an RGB image as strips; those of JPEG are complete files, 4:4:4."""
    rows = -(-height // len(strips))
    colours = YCBCR if compression == JPEG else RGB
    tags = {COMPRESSION: [compression], PHOTOMETRIC: [colours], STRIP_ROWS: [rows]}
    return _written(width, height, strips, {**tags, **({530: [1, 1]} if colours == YCBCR else {})})


def in_a_tile(width: int, height: int, side_px: int, tile: bytes) -> bytes:
    """Write an RGB image as one deflated tile, which may be larger than the image."""
    tags = {COMPRESSION: [DEFLATE], PHOTOMETRIC: [RGB]}
    return _written(width, height, [tile], {**tags, TILE_WIDTH: [side_px], TILE_ROWS: [side_px]})


def _written(
    width: int, height: int, blocks: Sequence[bytes], tags: Mapping[int, list[int]]
) -> bytes:
    file, places = BytesIO(), []
    file.write(b"II*\0" + bytes(4))
    for block in blocks:
        places.append(file.tell())
        file.write(block + bytes(len(block) % 2))
    at, sizes = (324, 325) if TILE_WIDTH in tags else (273, 279)
    every = {
        256: [width],
        257: [height],
        258: [8, 8, 8],
        277: [3],
        **tags,
        at: places,
        sizes: [len(block) for block in blocks],
    }
    entries = []
    for tag, values in sorted(every.items()):
        kind = LONG if tag in (at, sizes) or max(values) > 65_535 else SHORT
        packed = struct.pack(f"<{len(values)}{'HI'[kind == LONG]}", *values)
        if len(packed) > 4:
            place = file.tell()
            file.write(packed)
            packed = struct.pack("<I", place)
        entries.append(struct.pack("<HHI4s", tag, kind, len(values), packed))
    directory = file.tell()
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    whole = bytearray(file.getvalue())
    whole[4:8] = struct.pack("<I", directory)
    return bytes(whole)
