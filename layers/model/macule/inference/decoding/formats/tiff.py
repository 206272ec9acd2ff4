"""TIFF: the memory that libtiff holds for one strip or tile, whose size the file sets.

A tile may be larger than its image: one of 12,000 pixels a side takes 412 MB for any image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

BITS, COMPRESSION, SAMPLES, STRIP_ROWS, TILE_WIDTH, TILE_ROWS = 258, 259, 277, 278, 322, 323
# Measured bytes held per byte of a strip, by compression: JPEG holds the coefficients of a
# progressive file, 2 bytes each; LZMA and Zstandard hold their window. 1 is no compression, which
# Pillow reads without libtiff.
COPIES = {1: 0, 6: 3, 7: 3, 34925: 2, 50000: 2, 50001: 3}


def held_bytes(image: ImageFile) -> float:
    """Return the bytes per pixel that libtiff holds beside *image*."""
    tags: Any = getattr(image, "tag_v2", {})
    if TILE_WIDTH in tags:
        pixels = _number(tags, TILE_WIDTH, 0) * _number(tags, TILE_ROWS, image.height)
    else:
        rows = _number(tags, STRIP_ROWS, 0) or image.height
        pixels = image.width * min(rows, image.height)
    bits = _number(tags, BITS, 1) * max(_number(tags, SAMPLES, 1), len(image.getbands()))
    copies = COPIES.get(_number(tags, COMPRESSION, 1), 1)
    return copies * pixels * bits / 8 / max(1, image.width * image.height)


def _number(tags: Any, name: int, default: int) -> int:
    """Return the number of a tag; the largest if it has several."""
    value = tags.get(name, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)
