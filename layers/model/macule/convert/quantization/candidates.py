"""The precisions a float LiteRT file can be served in, the smallest first."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference
from macule.convert.quantization import mixed_precision, quantize, rounding
from macule.convert.source import restore

MAX_FLOAT_SEGMENTS = 3  # left float at once
# Every stretch is tried on its own: seconds for 13 MB, over 4 minutes for EfficientNetV2-S's 80 MB.
MAX_SEARCH_BYTES = 40 * 2**20
Log = Callable[[str], None]


class Candidate(NamedTuple):
    """A file that could be served in the original's place.

    `precision` is as the card says it. Where the file could not be made, `content` is empty and
    `why` says so.
    """

    name: str
    precision: str
    content: bytes
    error: str = ""


def make_candidate(name: str, kind: str, make: Callable[[], bytes]) -> Candidate:
    """Make a candidate; what the quantizer cannot do costs this one, not the others."""
    try:
        return Candidate(name, kind, make())
    except restore.LOAD_ERRORS as error:
        return failed_candidate(name, kind, error)


def failed_candidate(name: str, kind: str, error: Exception) -> Candidate:
    """Stand in for a candidate that could not be made."""
    told = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return Candidate(name, kind, b"", error=f"it cannot be made ({told})")


def generate_candidates(
    content: bytes,
    pixels: NDArray[np.uint8],
    scaling: batch_inference.Scaling,
    wanted: str,
    log: Log,
) -> Iterator[Candidate]:
    """Make the candidates of the *wanted* precision, or of all ("auto"), as they are asked for.

    Args:
      content: the original, a float32 `.tflite` as `export` writes it.
      pixels: (n, side, side, c) to calibrate on, as the serving decoder gives them.
    """
    if wanted in ("auto", "int8"):
        try:
            yield from int8_candidates(content, pixels, scaling, log)
        except restore.LOAD_ERRORS as error:
            yield failed_candidate("int8, further ways", "int8", error)
    if wanted in ("auto", "dynamic"):
        yield make_candidate("dynamic", "dynamic", lambda: quantize.dynamic(content))
    if wanted in ("auto", "fp16"):
        yield make_candidate("fp16", "fp16", lambda: quantize.fp16(content))
    if wanted in ("auto", "fp32"):
        yield Candidate("fp32", "fp32", content)


def int8_candidates(
    content: bytes, pixels: NDArray[np.uint8], scaling: batch_inference.Scaling, log: Log
) -> Iterator[Candidate]:
    """Make the int8 candidates: the quick way first, then ever truer ones at little more cost."""
    images = [batch_inference.scale(image[None], scaling) for image in pixels]
    log(f"int8: finding ranges on {len(images)} images")
    found = quantize.calibrate_ranges(content, images, batch_inference.scaled_bounds(scaling))
    yield make_candidate("int8", "int8", lambda: quantize.quantize_static(content, found))

    log("int8: rounding each weight by what its layer sees")
    head = quantize.float_pattern(content)
    settled, grids = rounding.round_weights(content, images, head)

    def make(pattern: str | None) -> bytes:
        keep = f"{head}|{pattern}" if pattern else head
        return quantize.quantize_static(settled, found, keep, grids)

    yield make_candidate("int8, float head", "int8", lambda: make(None))

    if len(content) > MAX_SEARCH_BYTES:
        log("int8: the network is too large to look for the operators that it hurts most")
        return
    log("int8: looking for the operators that it hurts most")
    cuts = mixed_precision.split_segments(mixed_precision.operator_names(content, head))
    reference = batch_inference.logits(content, pixels[: mixed_precision.IMAGES], scaling)
    best = mixed_precision.rank_segments(cuts, make, reference, pixels, scaling)
    for count in range(1, min(MAX_FLOAT_SEGMENTS, len(best)) + 1):
        name = f"int8, float head and {', '.join(best[:count])}"
        yield Candidate(name, "int8", make("|".join(cuts[cut] for cut in best[:count])))
