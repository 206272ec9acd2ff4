"""HEIC, the photo format of iPhones, decoded by libheif.

Pillow's plugin makes another copy of all pixels, 4 bytes each. This module passes on the rows of
libheif's image strip by strip.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from macule.inference.decoding.formats import isobmff

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
# Measured bytes per pixel: 4:2:0 of 8 bits, as phones write it, takes 4.6 for planes and RGB. Other
# pictures are converted through planar RGB: twice the bytes of the planes, and the RGB.
HELD_BYTES, HELD_RGB, HELD_RGBA, PLANE_COPIES = 4.75, 3.0, 4.0, 2.1
CHROMA = {0: 1.0, 1: 1.5, 2: 2.0, 3: 3.0}  # chroma_format_idc -> samples per pixel
CODED, GRID = b"hvc1", b"grid"
ALLOWED_ITEMS = {CODED, GRID, b"Exif", b"mime", b"uri ", b"tmap", b"iden", b""}
SPS, PARAMETER_SETS = 33, {32, 33, 34}  # types of NAL units
MIN_PIXELS = 2**20  # as a tile may be larger than its picture


class StreamHeader(NamedTuple):
    """Facts of a sequence parameter set: size in pixels, chroma_format_idc, bits per sample."""

    width: int
    height: int
    chroma: int
    bits: int


def plugin() -> type[ImageFile]:
    """Import pi-heif, which decodes only.

    Raises: ModuleNotFoundError.
    """
    from pi_heif import HeifImageFile, options

    options.DECODE_THREADS = 1  # each further thread holds its own pictures
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    found: type[ImageFile] = HeifImageFile
    return found


def held_bytes(body: bytes, size: tuple[int, int], alpha: bool) -> float:
    """Return the bytes per pixel that libheif holds, from the coded streams.

    Raises: ValueError, struct.error if the streams contradict the container.
    """
    configurations = isobmff.properties(body, b"hvcC")
    streams = [stream for each in configurations for stream in _parameter_sets(each)]
    if not streams:
        raise ValueError("there is no picture of HEVC")
    pixels = size[0] * size[1]
    for item in isobmff.items(body):
        _check(item, pixels, 1 + (configurations[0][21] & 3))
    largest = max(stream.width * stream.height for stream in streams)
    if largest > max(2 * pixels, MIN_PIXELS):
        raise ValueError(f"a stream of {largest} pixels in a picture of {pixels}")
    planes = max(CHROMA[stream.chroma] * (1 + (stream.bits > 8)) for stream in streams)
    held = PLANE_COPIES * (planes + 2 * alpha) + (HELD_RGBA if alpha else HELD_RGB)
    if planes <= CHROMA[1] and not alpha:
        held = HELD_BYTES
    return held * max(pixels, largest) / pixels


def strips(body: bytes, size: tuple[int, int], rows: int, top: int, bottom: int) -> Iterator[Image]:
    """Decode the picture; yield its rows from *top* to *bottom*, *rows* at a time.

    Raises: OSError if it is not of *size*; EOFError, RuntimeError, SyntaxError, ValueError.
    """
    from pi_heif import open_heif
    from PIL.Image import frombytes

    file = open_heif(body, convert_hdr_to_8bit=True, remove_stride=False)
    picture = file[file.primary_index]
    pixels, mode, stride = memoryview(picture.data), picture.mode, picture.stride
    if tuple(picture.size) != size:
        raise OSError(f"the picture is {picture.size}, not {size}")
    for start in range(top, bottom, rows):
        end = min(start + rows, bottom)
        part = pixels[start * stride : end * stride]
        yield frombytes(mode, (size[0], end - start), part, "raw", mode, stride)


def _check(item: isobmff.Item, pixels: int, length_bytes: int) -> None:
    """Refuse streams that change their parameters, and grids larger than the file's picture.

    Raises: ValueError, struct.error.
    """
    if item.kind not in ALLOWED_ITEMS:
        raise ValueError(f"an item of type {item.kind!r}")
    if item.kind == GRID:
        plan = b"".join(item.parts)
        width, height = struct.unpack_from(">II" if plan[1] & 1 else ">HH", plan, 4)
        if width * height > 2 * pixels:
            raise ValueError(f"a grid of {width} x {height} in a picture of {pixels} pixels")
    if item.kind == CODED:
        data, place = item.parts[0] if len(item.parts) == 1 else b"".join(item.parts), 0
        while place + length_bytes < len(data):
            size = int.from_bytes(data[place : place + length_bytes], "big")
            if data[place + length_bytes] >> 1 & 63 in PARAMETER_SETS:
                raise ValueError("a stream with parameters of its own")
            place += length_bytes + size


def _parameter_sets(configuration: memoryview) -> Iterator[StreamHeader]:
    """Yield the sequence parameter sets of a box `hvcC`."""
    place = 23
    for _ in range(configuration[22]):
        kind, count = struct.unpack_from(">BH", configuration, place)
        place += 3
        for _ in range(count):
            (size,) = struct.unpack_from(">H", configuration, place)
            if kind & 63 == SPS:
                yield _parse_sps(bytes(configuration[place + 2 : place + 2 + size]))
            place += 2 + size


def _parse_sps(unit: bytes) -> StreamHeader:
    """Parse a sequence parameter set up to the bit depth (ITU-T H.265, 7.3.2.2)."""
    bits = isobmff.Bits(unit.replace(b"\0\0\3", b"\0\0")[2:])
    bits.read(4)
    sublayers = bits.read(3)
    bits.read(1 + 88 + 8)  # the general profile, tier and level
    if sublayers:
        raise ValueError("a picture in layers")
    bits.golomb()
    chroma = bits.golomb()
    if chroma == 3:
        bits.read(1)
    width, height = bits.golomb(), bits.golomb()
    if bits.read(1):
        for _ in range(4):
            bits.golomb()
    return StreamHeader(width, height, chroma, 8 + max(bits.golomb(), bits.golomb()))
