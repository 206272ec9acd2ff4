"""Rendering of a class activation map as PNG: a heat map, and the same over the photo."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

    from macule.inference.runtime import ActivationMap

LONGEST_PX = 256  # about the side of the network's input; a browser can scale it up
MAX_CHARACTERS = 360_000  # of both data URIs; reached by noise, which PNG cannot compress
# Dark violet to bright pink: rising lightness, readable with colour blindness and in print. Skin
# never has these colours, and over no skin they look green, as yellow does over dark brown.
COLOUR_STOPS = (
    (0, (30, 10, 70)),
    (85, (110, 20, 150)),
    (170, (210, 40, 200)),
    (255, (255, 120, 225)),
)
MAX_OPACITY = 0.6  # opacity of the overlay where the map peaks


class Pictures(NamedTuple):
    """Two PNG files."""

    heatmap: bytes
    overlay: bytes


def render(activation: ActivationMap, picture: Image, shape: tuple[int, int]) -> Pictures:
    """Render the activation map of one class.

    Args:
      activation: evidence against the class (below 0) counts as 0.
      picture: RGB, the network's input.
      shape: width and height of the part of the photo in the input; gives the aspect ratio.
    """
    from PIL.Image import Resampling, composite, frombytes

    size = _scaled_size(shape)
    values, width, height = activation
    peak = max(*values, 0.0)
    levels = bytes(int(max(value, 0.0) * (255 / peak)) if peak > 0 else 0 for value in values)
    weight = frombytes("L", (width, height), levels).resize(size, Resampling.BICUBIC)
    colours = weight.convert("P")
    colours.putpalette(_palette())
    photo = picture.resize(size, Resampling.BICUBIC)
    opacity = weight.point([round(level * MAX_OPACITY) for level in range(256)])
    overlay = composite(colours.convert("RGB"), photo, opacity)
    return Pictures(_png(colours), _png(overlay))


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")


def _scaled_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Scale a width and height so that the longer is LONGEST_PX, and the shorter at least 1."""
    scale = LONGEST_PX / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _palette() -> list[int]:
    """Interpolate STOPS to 256 RGB triples."""
    triples: list[int] = []
    for (start, first), (end, second) in pairwise(COLOUR_STOPS):
        for level in range(start, end + (end == 255)):
            part = (level - start) / (end - start)
            triples += [round(a + (b - a) * part) for a, b in zip(first, second, strict=True)]
    return triples


def _png(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
