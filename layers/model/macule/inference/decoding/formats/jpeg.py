"""What a JPEG's markers tell: the memory that its scans take, the share that a cut file has."""

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
    """Return the coefficients a pixel that a JPEG of several scans makes libjpeg hold."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if not layers:
        return 0.0
    if not image.info.get("progressive") and _is_single_scan(image, body, len(layers)):
        return 0.0
    widest = max(h * v for _, h, v, _ in layers)
    return sum(h * v / widest for _, h, v, _ in layers)


def _is_single_scan(image: ImageFile, body: bytes, components: int) -> bool:
    """Say whether the first scan, which Pillow has just read past, holds all components."""
    end = image.fp.tell() if image.fp else 0
    size = 6 + 2 * components
    return body[end - size : end - size + 3] == struct.pack(">HB", size, components)


def decoded_rows_share(image: ImageFile) -> float:
    """Return the share of rows that are decoded so far: those below them are still zero."""
    box = image.im.getbbox()
    return box[3] / image.height if box else 0.0


def complete_scans_share(image: ImageFile, body: bytes, start: int) -> float:
    """Return the share of coefficients that the whole scans of a cut file have begun.

    Later scans make them more exact. *start*: where the first scan's data begin. In the data of a
    scan no marker can stand, so the next one is found by its bytes.
    """
    known: set[tuple[int, int]] = set()
    scan = body.rfind(SCAN, 0, start)
    while (following := body.find(SCAN, scan + 2)) > scan >= 0:  # the last one is not whole
        count = body[scan + 4]
        first, last, precision = body[scan + 5 + 2 * count : scan + 8 + 2 * count]
        if precision >> 4 == 0:
            named = body[scan + 5 : scan + 5 + 2 * count : 2]
            known |= {(name, place) for name in named for place in range(first, last + 1)}
        scan = following
    return len(known) / (COEFFICIENTS * len(getattr(image, "layer", "?")))
