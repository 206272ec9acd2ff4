"""JPEG markers: the memory that scans take, and the share of a truncated file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

END = b"\xff\xd9"
SCAN = b"\xff\xda"
COEFFICIENTS = 64
SCALES = (8, 4, 2)  # in the DCT


def coefficients(image: ImageFile, body: bytes) -> float:
    """Return the coefficients per pixel that libjpeg holds for a multi-scan JPEG, else 0."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if not layers:
        return 0.0
    if not image.info.get("progressive") and _is_single_scan(image, body, len(layers)):
        return 0.0
    widest = max(h * v for _, h, v, _ in layers)
    return sum(h * v / widest for _, h, v, _ in layers)


def _is_single_scan(image: ImageFile, body: bytes, components: int) -> bool:
    """Return whether the first scan, which Pillow has just read past, has all components."""
    end = image.fp.tell() if image.fp else 0
    size = 6 + 2 * components
    return body[end - size : end - size + 3] == struct.pack(">HB", size, components)


def decoded_rows_share(image: ImageFile) -> float:
    """Return the share of decoded rows; rows below them are still zero."""
    box = image.im.getbbox()
    return box[3] / image.height if box else 0.0


def complete_scans_share(image: ImageFile, body: bytes, start: int) -> float:
    """Return the share of coefficients that the complete scans of a truncated file contain.

    Later scans only refine them. *start*: offset of the first scan's data. Scan data cannot contain
    a marker, so the next scan is found by its bytes.
    """
    known: set[tuple[int, int]] = set()
    scan = body.rfind(SCAN, 0, start)
    while (following := body.find(SCAN, scan + 2)) > scan >= 0:  # the last one is incomplete
        count = body[scan + 4]
        first, last, precision = body[scan + 5 + 2 * count : scan + 8 + 2 * count]
        if precision >> 4 == 0:
            named = body[scan + 5 : scan + 5 + 2 * count : 2]
            known |= {(name, place) for name in named for place in range(first, last + 1)}
        scan = following
    return len(known) / (COEFFICIENTS * len(getattr(image, "layer", "?")))
