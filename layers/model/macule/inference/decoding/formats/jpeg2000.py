"""JPEG 2000: scales and memory cost, read from the code stream before decoding."""

from __future__ import annotations

import struct

CODING_STYLE, SIZE = b"\xff\x52", b"\xff\x4f\xff\x51"  # the markers COD; SOC and SIZ
LEVELS_AT = 9  # after the marker COD
MAX_CHANNELS, MAX_LEVELS = 4, 8
COPIES = 2.2  # of the file's bytes: OpenJPEG's buffer and the code blocks


def scales(body: bytes, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the divisors of width and height that decoding supports, the largest first.

    OpenJPEG rounds up, Pillow to the nearest; Pillow refuses the result if these differ.
    """
    place = body.find(CODING_STYLE)
    levels = body[place + LEVELS_AT] if 0 <= place < len(body) - LEVELS_AT else 0
    powers = [2**power for power in range(min(levels, MAX_LEVELS), 0, -1)]
    return tuple(
        scale
        for scale in powers
        if all(-(-side // scale) == (side + scale // 2) // scale for side in size)
    )


def held_bytes(body: bytes, size: tuple[int, int]) -> float:
    """Return the bytes per pixel that OpenJPEG holds beside the image.

    Raises: ValueError, struct.error if the code stream's size contradicts the container.
    """
    start = body.index(SIZE) + len(SIZE)
    right, bottom, left, top = struct.unpack_from(">4I", body, start + 4)
    (channels,) = struct.unpack_from(">H", body, start + 36)
    if (right - left, bottom - top) != size or channels > MAX_CHANNELS:
        raise ValueError(f"a stream of {right - left} x {bottom - top} with {channels} channels")
    return COPIES * len(body) / (size[0] * size[1])
