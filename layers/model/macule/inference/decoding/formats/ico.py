"""Windows icons: the largest picture, a PNG or a bitmap of at most 256 x 256 pixels."""

from __future__ import annotations

import struct

SIGNATURE = b"\0\0\1\0"
ENTRY = struct.Struct("<BBBBHHII")  # width, height, colours, 0, planes, bits, bytes, place
MAX_SIDE_PX = 256


def largest(body: bytes) -> bytes:
    """Return the PNG of the largest picture of an icon; the icon itself if that is a bitmap.

    Raises: ValueError, struct.error.
    """
    (count,) = struct.unpack_from("<H", body, 4)
    entries = [ENTRY.unpack_from(body, 6 + ENTRY.size * n) for n in range(min(count, 256))]
    if not entries:
        raise ValueError("the icon has no pictures")
    # a side of 0 means 256
    *_, size, place = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[5]))
    picture = body[place : place + size]
    if picture.startswith(b"\x89PNG"):
        return picture
    width, height = struct.unpack_from("<ii", picture, 4)
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= 2 * MAX_SIDE_PX):
        raise ValueError(f"a bitmap of {width} x {height} pixels in an icon")
    return body
