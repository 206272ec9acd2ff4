"""Colour of an image: its profile, and conversion of any mode to 8 bits without alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

from macule.inference.decoding import icc
from macule.inference.decoding.formats import isobmff, png
from macule.inference.decoding.icc import Colour

if TYPE_CHECKING:
    from PIL.Image import Image


def find_profile(image: Image, body: bytes) -> Colour:
    """Return the colour profile of an image, in the precedence that its format specifies.

    *body*: the file; b"" if there is none.
    """
    info, kind = image.info, image.format
    coded = png.coded_colour(body) if kind == "PNG" else None
    if kind in {"AVIF", "HEIF"} and not info.get("icc_profile"):
        coded = isobmff.coded_colour(body)
    if coded:
        return icc.from_code_points(*coded)
    if profile := info.get("icc_profile"):
        return icc.check_embedded(image.mode, profile)
    has_gamma = kind == "PNG" and "gamma" in info and "srgb" not in info
    if has_gamma and image.mode in icc.SPACES[b"RGB "]:
        return icc.from_gamma(info["gamma"], info.get("chromaticity", ()))
    return Colour(b"")


def white_level(image: Image) -> float:
    """Return the value of white in an image of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in {"I", "F"}:
        return 255.0
    extrema = image.getextrema()
    highest = extrema[1] if isinstance(extrema[1], int | float) else 255.0
    return next((white for white in (1.0, 255.0, 65535.0) if highest <= white), highest)


def to_rgb(image: Image, peak: float, profile: bytes = b"") -> Image:
    """Convert any mode to RGB, transparency over white; keep CMYK if it has a *profile*.

    *peak*: the value that becomes 255.
    """
    from PIL.Image import new

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "CMYK" and profile:
        return image
    if image.mode[0] in "IF":
        scaled = image.convert("F").point(lambda value: value * (255.0 / peak) + 0.0)
        return scaled.convert("L").convert("RGB")  # clips to 0 to 255, and rounds down
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")
