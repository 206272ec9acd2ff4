"""WebP decoding with libwebp's scaling, so that an image is never held whole.

Pillow's reader holds two RGBA canvases and a copy, 17 bytes per pixel. libwebp scales rows while it
decodes them. The library is the one of Pillow, called through ctypes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

PIECE_BYTES = 2**16
ABI_VERSION = 0x0209  # WEBP_DECODER_ABI_VERSION; libwebp refuses another major version
RGBA = 1  # MODE_RGBA
OK, SUSPENDED = 0, 5  # VP8StatusCode
# Bytes per pixel that libwebp holds: all pixels of a lossless image, the alpha of a lossy one.
HELD_LOSSLESS, HELD_ALPHA = 4.2, 2.4
PICTURE_CHUNKS = {b"VP8 ", b"VP8L", b"ALPH"}  # chunks that start a picture


class _Input(ctypes.Structure):
    """WebPBitstreamFeatures of webp/decode.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("width", "height", "alpha", "animation", "format")),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Planes(ctypes.Structure):
    """WebPYUVABuffer; the first members of WebPRGBABuffer, with which it shares a union."""

    _fields_ = (
        ("rgba", ctypes.POINTER(ctypes.c_uint8)),
        ("stride", ctypes.c_int),
        ("size", ctypes.c_size_t),
        ("rest", ctypes.c_uint8 * 56),
    )


class _Output(ctypes.Structure):
    """WebPDecBuffer."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("colorspace", "width", "height", "external")),
        ("planes", _Planes),
        ("pad", ctypes.c_uint32 * 4),
        ("memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    """WebPDecoderOptions."""

    _fields_ = (
        *(
            (name, ctypes.c_int)
            for name in (
                *("bypass_filtering", "no_fancy_upsampling", "use_cropping", "crop_left"),
                *("crop_top", "crop_width", "crop_height", "use_scaling", "scaled_width"),
                *("scaled_height", "use_threads", "dithering_strength", "flip"),
                "alpha_dithering_strength",
            )
        ),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    """WebPDecoderConfig."""

    _fields_ = (("input", _Input), ("output", _Output), ("options", _Options))


class Frame(NamedTuple):
    """The first picture of a file: its size and place on the canvas, in pixels, and its bytes."""

    left: int
    top: int
    width: int
    height: int
    start: int
    end: int
    held_bytes: float  # per pixel, by libwebp


@cache
def library() -> ctypes.CDLL:
    """Return libwebp as loaded by Pillow's module, whose dependencies provide the symbols.

    Raises: AttributeError if Pillow was built without it.
    """
    from PIL import _webp

    found = ctypes.CDLL(_webp.__file__)
    pointer, data, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in (
        ("WebPInitDecoderConfigInternal", ctypes.c_int, (ctypes.POINTER(_Config), ctypes.c_int)),
        ("WebPIDecode", pointer, (data, size, ctypes.POINTER(_Config))),
        ("WebPIUpdate", ctypes.c_int, (pointer, pointer, size)),
        ("WebPIDelete", None, (pointer,)),
        ("WebPFreeDecBuffer", None, (ctypes.POINTER(_Output),)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def frame(body: bytes, size: tuple[int, int]) -> Frame:
    """Return the first picture of a file with a canvas of *size*.

    Raises: OSError if there is none.
    """
    place = 12
    while place + 8 <= len(body):
        kind, length = struct.unpack_from("<4sI", body, place)
        data = place + 8
        if kind in PICTURE_CHUNKS:
            return _with_held_bytes(body, Frame(0, 0, *size, 0, len(body), 0.0), place)
        if kind == b"ANMF":
            fields = (int.from_bytes(body[data + n : data + n + 3], "little") for n in (0, 3, 6, 9))
            left, top, width, height = fields
            end = min(data + length, len(body))
            found = Frame(2 * left, 2 * top, width + 1, height + 1, data + 16, end, 0.0)
            return _with_held_bytes(body, found, data + 16)
        place = data + length + length % 2
    raise OSError("the file holds no picture")


def _with_held_bytes(body: bytes, found: Frame, place: int) -> Frame:
    """Return the frame whose chunks begin at *place*, with `held_bytes` set.

    Raises: OSError if the coded picture's size contradicts the container; struct.error.
    """
    held_bytes = 0.0
    kind, length = struct.unpack_from("<4sI", body, place)
    if kind == b"ALPH":
        held_bytes = HELD_ALPHA
        place += 8 + length + length % 2
        kind = body[place : place + 4]
    if kind == b"VP8L":
        (word,) = struct.unpack_from("<I", body, place + 9)
        size, held_bytes = ((word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1), HELD_LOSSLESS
    else:
        width, height = struct.unpack_from("<HH", body, place + 14)
        size = width & 0x3FFF, height & 0x3FFF
    if size != (found.width, found.height):
        raise OSError(f"a picture of {size} in a frame of {found.width} x {found.height}")
    return found._replace(held_bytes=held_bytes)


def decode(
    body: bytes, canvas: tuple[int, int], size: tuple[int, int], check: Callable[[], None]
) -> Image:
    """Decode the first picture of *body*, with its *canvas* scaled to *size*.

    *check* is called for each block of the file; an exception of it ends the decoding.
    Returns: RGBA; transparent where the picture does not cover the canvas.
    Raises: OSError.
    """
    from PIL.Image import new

    found = frame(body, canvas)
    across, down = size[0] / canvas[0], size[1] / canvas[1]
    width, height = max(1, round(found.width * across)), max(1, round(found.height * down))
    picture = _scaled(body, found, (width, height), check)
    if picture.size == size:
        return picture
    whole = new("RGBA", size)
    whole.paste(picture, (round(found.left * across), round(found.top * down)))
    return whole


def _scaled(body: bytes, found: Frame, size: tuple[int, int], check: Callable[[], None]) -> Image:
    from PIL.Image import frombytes

    webp, config = library(), _Config()
    if not webp.WebPInitDecoderConfigInternal(config, ABI_VERSION):
        raise OSError("this libwebp has another interface")
    config.output.colorspace = RGBA
    config.options.use_scaling = 1
    config.options.scaled_width, config.options.scaled_height = size
    decoder = webp.WebPIDecode(None, 0, config)
    if not decoder:
        raise MemoryError
    try:
        _feed(webp, decoder, body, found, check)
        planes = config.output.planes
        pixels = ctypes.string_at(planes.rgba, planes.stride * (size[1] - 1) + 4 * size[0])
        return frombytes("RGBA", size, pixels, "raw", "RGBA", planes.stride)
    finally:
        webp.WebPIDelete(decoder)
        webp.WebPFreeDecBuffer(config.output)


def _feed(webp: Any, decoder: Any, body: bytes, found: Frame, check: Callable[[], None]) -> None:
    """Pass growing parts of the file to the decoder, without a copy."""
    address = ctypes.cast(ctypes.c_char_p(body), ctypes.c_void_p).value or 0
    start, end = address + found.start, found.end - found.start
    for known in (*range(PIECE_BYTES, end, PIECE_BYTES), end):
        check()
        status = webp.WebPIUpdate(decoder, start, known)
        if status == OK:
            return
        if status != SUSPENDED:
            raise OSError(f"libwebp's status {status}")
    raise OSError("the picture ends early")
