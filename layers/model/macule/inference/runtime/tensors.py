"""Conversions between a picture, network input and network outputs, without numpy.

All arithmetic is that of float32: products and quotients of two float32 values are computed in
Python's float64 and rounded once, which gives the same bits.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from macule.inference.runtime.litert import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

# The outputs of a model file, by their number of dimensions.
OOD_SCORES, LOGITS, MAPS = 1, 2, 4
ALL = slice(None)
LEVELS = 256
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def arrange(picture: Image, channels: str) -> Image:
    """Convert an RGB picture to the channels of the network: rgb, bgr or gray (ITU-R 601 luma)."""
    from PIL.Image import merge

    if channels == "rgb":
        return picture
    if channels == "bgr":
        return merge("RGB", picture.split()[::-1])
    return picture.convert("L")


def level_table(mean: float, std: float, source: Tensor) -> array[float] | array[int]:
    """Return the network input for each of the 256 values of one channel: (value - mean) / std.

    The dtype is that of *source*, which has the scale and the zero point.
    """
    mean, std = to_float32([mean, std])
    scaled = to_float32(value / std for value in to_float32(v - mean for v in range(LEVELS)))
    if source.dtype == "float32":
        return scaled
    low, high = LIMITS[source.dtype]
    steps = to_float32(value / source.scale for value in scaled)
    quantized = (min(max(round(step) + source.zero_point, low), high) for step in steps)
    return array(source.code, quantized)


def network_input(picture: Image, tables: Sequence[array[float] | array[int]]) -> bytes:
    """Replace each value of *picture* by its entry in the table of its channel.

    Returns: the bytes of a tensor (1, height, width, channels).
    """
    if tables[0].itemsize == 1:
        return picture.point(b"".join(table.tobytes() for table in tables)).tobytes()
    if all(table == tables[0] for table in tables):
        return _replace(picture.tobytes(), tables[0])
    split = zip(picture.split(), tables, strict=True)
    planes = [array("f", _replace(plane.tobytes(), table)) for plane, table in split]
    content = array("f", bytes(4 * len(planes) * len(planes[0])))
    for channel, plane in enumerate(planes):
        content[channel :: len(planes)] = plane
    return content.tobytes()


def floats(raw: bytes, tensor: Tensor, chosen: slice = ALL) -> array[float]:
    """Convert the bytes of an output, or its *chosen* values, to float32."""
    if tensor.dtype == "float32":
        return array("f", raw)[chosen]
    scale, zero = tensor.scale, tensor.zero_point
    return to_float32((value - zero) * scale for value in array(tensor.code, raw)[chosen])


def as_logits(scores: Sequence[float], output: str) -> Sequence[float]:
    """Convert a model's scores to logits; *output* is the card's kind of scores."""
    if output == "logits":
        return scores
    shares = [*scores]
    if output == "sigmoid":
        shares = [1 - scores[0], scores[0]]
    # a quantized 0 is less than half a step of 1/256
    return [math.log(min(max(share, 1e-7), 1.0)) for share in shares]


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    """Turn logits into probabilities that sum to 1; nan if a logit is nan or infinite."""
    highest = max(logits)
    powers = [math.exp((logit - highest) / temperature) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def to_float32(values: Iterable[float]) -> array[float]:
    """Round to float32."""
    return array("f", values)


def _replace(values: bytes, table: array[float] | array[int]) -> bytes:
    """Replace each byte by 4 bytes of *table*: the colours of a palette picture, in Pillow's C."""
    from PIL.Image import frombytes

    picture = frombytes("P", (len(values), 1), values)
    picture.putpalette(table.tobytes(), "RGBA")
    return picture.convert("RGBA").tobytes()
