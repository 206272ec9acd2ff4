"""Mixed precision: find the segments of a network with the largest int8 error."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference

SEGMENTS = 24
IMAGES = 24  # enough to rank: the segments differ by much more than the sampling error
MAX_GROWTH = 0.15  # float weights are four times as large; a late segment can double the file

Floats = NDArray[np.float32]
QuantizeWith = Callable[[str | None], bytes]


def operator_names(content: bytes, exclude: str) -> list[str]:
    """Return the names of the operators in execution order, without those that match *exclude*.

    As in the quantizer, the name is the names of the outputs, each followed by a semicolon.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils

    graph = tfl_flatbuffer_utils.read_model(memoryview(bytearray(content))).subgraphs[0]
    names = [tfl_flatbuffer_utils.get_op_scope(each, graph.tensors) for each in graph.operators]
    return [name for name in names if not re.search(exclude, name)]


def split_segments(names: list[str]) -> dict[str, str]:
    """Split the network into segments; returns the pattern of the operator names by segment title.

    Segments are consecutive, because each change between int8 and float costs a conversion.
    """
    parts = np.array_split(np.arange(len(names)), min(SEGMENTS, len(names)))
    return {
        f"operators {part[0] + 1}-{part[-1] + 1}" if len(part) > 1 else f"operator {part[0] + 1}": (
            "|".join(f"^{re.escape(names[index])}" for index in part)
        )
        for part in parts
    }


def rank_segments(
    segments: dict[str, str],
    quantize_with: QuantizeWith,
    reference: Floats,
    pixels: NDArray[np.uint8],
    scaling: batch_inference.Scaling,
    most_growth: float = MAX_GROWTH,
) -> list[str]:
    """Order *segments* by the error of int8 in each segment alone, the largest first.

    Segments that would make the file too large, or are already float, are excluded. Each segment
    is measured with all others in float. If all others were int8, their noise would hide the
    effect of the segment.

    Args:
      quantize_with: returns the int8 file with the operators of an additional pattern in float.
      reference: logits (n, classes) of the float file on *pixels*.
    """
    plain = quantize_with(None)
    errors = {}
    for name, pattern in segments.items():
        if plain != (mixed := quantize_with(pattern)) and len(mixed) <= len(plain) * (
            1 + most_growth
        ):
            alone = quantize_with(
                "|".join(other for other in segments.values() if other != pattern)
            )
            logits = batch_inference.logits(alone, pixels[:IMAGES], scaling)
            errors[name] = float(np.square(logits - reference[:IMAGES]).mean())
    return sorted(errors, key=lambda name: -errors[name])
