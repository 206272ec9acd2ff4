"""The precisions a float LiteRT file can be served in, the smallest first."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convert import mixed, quantize, rounding, run

MOST_STRETCHES = 3  # left float at once
# Every stretch is tried on its own: seconds for 13 MB, over 4 minutes for EfficientNetV2-S's 80 MB.
MOST_SEARCHED_BYTES = 40 * 2**20
Say = Callable[[str], None]


class Candidate(NamedTuple):
    """A file that could be served in the original's place."""

    name: str
    precision: str  # int8, fp16, dynamic or fp32: what the card says
    content: bytes


def candidates(
    content: bytes, pixels: NDArray[np.uint8], scaling: run.Scaling, wanted: str, say: Say
) -> Iterator[Candidate]:
    """Make the candidates of the *wanted* precision, or of all ("auto"), as they are asked for.

    Args:
      content: the original, a float32 `.tflite` as `export` writes it.
      pixels: (n, side, side, c) to calibrate on, as the serving decoder gives them.
    """
    if wanted in ("auto", "int8"):
        yield from integers(content, pixels, scaling, say)
    if wanted in ("auto", "dynamic"):
        yield Candidate("dynamic", "dynamic", quantize.dynamic(content))
    if wanted in ("auto", "fp16"):
        yield Candidate("fp16", "fp16", quantize.fp16(content))
    if wanted in ("auto", "fp32"):
        yield Candidate("fp32", "fp32", content)


def integers(
    content: bytes, pixels: NDArray[np.uint8], scaling: run.Scaling, say: Say
) -> Iterator[Candidate]:
    """Make the int8 candidates: the quick way first, then ever truer ones at little more cost."""
    images = [run.scale(image[None], scaling) for image in pixels]
    say(f"int8: finding ranges on {len(images)} images")
    found = quantize.ranges(content, images, run.bounds(scaling))
    yield Candidate("int8", "int8", quantize.static(content, found))

    say("int8: rounding each weight by what its layer sees")
    head = quantize.head(content)
    settled, grids = rounding.settle(content, images, head)

    def make(pattern: str | None) -> bytes:
        keep = f"{head}|{pattern}" if pattern else head
        return quantize.static(settled, found, keep, grids)

    yield Candidate("int8, float head", "int8", make(None))

    if len(content) > MOST_SEARCHED_BYTES:
        say("int8: the network is too large to look for the operators that it hurts most")
        return
    say("int8: looking for the operators that it hurts most")
    cuts = mixed.stretches(mixed.operators(content, head))
    reference = run.logits(content, pixels[: mixed.IMAGES], scaling)
    best = mixed.rank(cuts, make, reference, pixels, scaling)
    for count in range(1, min(MOST_STRETCHES, len(best)) + 1):
        name = f"int8, float head and {', '.join(best[:count])}"
        yield Candidate(name, "int8", make("|".join(cuts[cut] for cut in best[:count])))
