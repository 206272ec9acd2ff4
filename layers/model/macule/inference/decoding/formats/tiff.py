"""What libtiff holds while it decodes: one strip or tile, of a size that the file chooses.

A tile may be larger than its image: one of 12,000 pixels a side takes 412 MB, whatever the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

BITS, COMPRESSION, SAMPLES, STRIP_ROWS, TILE_WIDTH, TILE_ROWS = 258, 259, 277, 278, 322, 323
# Bytes held for each byte of a strip, by compression; measured: JPEG keeps the coefficients of a
# progressive file, 2 bytes each; LZMA and Zstandard keep their window. The first is none, which
# Pillow reads without libtiff.
COPIES = {1: 0, 6: 3, 7: 3, 34925: 2, 50000: 2, 50001: 3}


def held_bytes(image: ImageFile) -> float:
    """Return the bytes a pixel of *image* that libtiff holds beside it."""
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
    """Read a tag that should have one number; of several the largest counts."""
    value = tags.get(name, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)
