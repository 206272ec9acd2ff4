"""Candidates: a float LiteRT file in several precisions, the smallest first.

The last int8 candidates have mixed precision: segments with the largest error stay in float.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference
from macule.convert.quantization import quantize, rounding
from macule.convert.source import restore

MAX_FLOAT_SEGMENTS = 3  # kept in float together
# Each segment is tried alone: seconds for 13 MB, over 4 minutes for the 80 MB of EfficientNetV2-S.
MAX_SEARCH_BYTES = 40 * 2**20
SEGMENTS = 24
IMAGES = 24  # enough to rank: the segments differ by much more than the sampling error
MAX_GROWTH = 0.15  # float weights are four times as large; a late segment can double the file
Log = Callable[[str], None]


class Candidate(NamedTuple):
    """A file that could replace the original.

    `precision` is that of the card. If the file could not be created, `content` is empty and
    `error` is the reason.
    """

    name: str
    precision: str
    content: bytes
    error: str = ""


def make_candidate(name: str, kind: str, make: Callable[[], bytes]) -> Candidate:
    """Create a candidate; an error of the quantizer only affects this one."""
    try:
        return Candidate(name, kind, make())
    except restore.LOAD_ERRORS as error:
        return failed_candidate(name, kind, error)


def failed_candidate(name: str, kind: str, error: Exception) -> Candidate:
    message = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return Candidate(name, kind, b"", error=f"it cannot be created ({message})")


def generate_candidates(
    content: bytes,
    pixels: NDArray[np.uint8],
    scaling: batch_inference.Scaling,
    wanted: str,
    log: Log,
) -> Iterator[Candidate]:
    """Create the candidates of the *wanted* precision, or of all ("auto"), one at a time.

    Args:
      content: the original, a float32 `.tflite` as `export` writes it.
      pixels: (n, side, side, c) to calibrate on, decoded as in production.
    """
    if wanted in ("auto", "int8"):
        try:
            yield from int8_candidates(content, pixels, scaling, log)
        except restore.LOAD_ERRORS as error:
            yield failed_candidate("int8, other variants", "int8", error)
    if wanted in ("auto", "dynamic"):
        yield make_candidate("dynamic", "dynamic", lambda: quantize.dynamic(content))
    if wanted in ("auto", "fp16"):
        yield make_candidate("fp16", "fp16", lambda: quantize.fp16(content))
    if wanted in ("auto", "fp32"):
        yield Candidate("fp32", "fp32", content)


def int8_candidates(
    content: bytes, pixels: NDArray[np.uint8], scaling: batch_inference.Scaling, log: Log
) -> Iterator[Candidate]:
    """Create the int8 candidates: the simplest first, then more accurate ones."""
    images = [batch_inference.scale(image[None], scaling) for image in pixels]
    log(f"int8: calibrating ranges on {len(images)} images")
    found = quantize.calibrate_ranges(content, images, batch_inference.scaled_bounds(scaling))
    yield make_candidate("int8", "int8", lambda: quantize.quantize_static(content, found))

    log("int8: rounding the weights with the activations of their layers")
    head = quantize.float_pattern(content)
    rounded, grids = rounding.round_weights(content, images, head)

    def make(pattern: str | None) -> bytes:
        float_pattern = f"{head}|{pattern}" if pattern else head
        return quantize.quantize_static(rounded, found, float_pattern, grids)

    yield make_candidate("int8, float head", "int8", lambda: make(None))

    if len(content) > MAX_SEARCH_BYTES:
        log("int8: the network is too large to search for the operators with the largest error")
        return
    log("int8: searching for the operators with the largest error")
    segments = split_segments(operator_names(content, head))
    reference = batch_inference.logits(content, pixels[:IMAGES], scaling)
    best = rank_segments(segments, make, reference, pixels, scaling)
    for count in range(1, min(MAX_FLOAT_SEGMENTS, len(best)) + 1):
        name = f"int8, float head and {', '.join(best[:count])}"
        yield Candidate(name, "int8", make("|".join(segments[segment] for segment in best[:count])))


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
    quantize_with: Callable[[str | None], bytes],
    reference: NDArray[np.float32],
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
        mixed = quantize_with(pattern)
        if mixed != plain and len(mixed) <= len(plain) * (1 + most_growth):
            others = "|".join(other for other in segments.values() if other != pattern)
            alone = quantize_with(others)
            logits = batch_inference.logits(alone, pixels[:IMAGES], scaling)
            errors[name] = float(np.square(logits - reference[:IMAGES]).mean())
    return sorted(errors, key=lambda name: -errors[name])
