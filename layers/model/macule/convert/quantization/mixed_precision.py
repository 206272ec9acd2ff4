"""Find the stretches of a network that int8 hurts most, to be left float."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference

SEGMENTS = 24
IMAGES = 24  # enough to rank: the stretches differ by far more than 24 images err
MAX_GROWTH = 0.15  # float weights are four times as large; a late stretch can double the file

Floats = NDArray[np.float32]
QuantizeWith = Callable[[str | None], bytes]


def operator_names(content: bytes, leave: str) -> list[str]:
    """Names of the operators in the order they run, save those that match *leave*.

    An operator goes by its outputs' names, each followed by a semicolon, as in the quantizer.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils

    graph = tfl_flatbuffer_utils.read_model(memoryview(bytearray(content))).subgraphs[0]
    names = [tfl_flatbuffer_utils.get_op_scope(each, graph.tensors) for each in graph.operators]
    return [name for name in names if not re.search(leave, name)]


def split_segments(names: list[str]) -> dict[str, str]:
    """Cut the network into stretches of operators: what to call each, and the pattern of its names.

    They are consecutive, since each seam between int8 and float costs a conversion.
    """
    cuts = np.array_split(np.arange(len(names)), min(SEGMENTS, len(names)))
    return {
        f"operators {cut[0] + 1}-{cut[-1] + 1}" if len(cut) > 1 else f"operator {cut[0] + 1}": (
            "|".join(f"^{re.escape(names[place])}" for place in cut)
        )
        for cut in cuts
    }


def rank_segments(
    cuts: dict[str, str],
    make: QuantizeWith,
    reference: Floats,
    pixels: NDArray[np.uint8],
    scaling: batch_inference.Scaling,
    most_growth: float = MAX_GROWTH,
) -> list[str]:
    """Order *cuts* by what int8 does to each alone, the worst first.

    Left out are those that would make the file too large, and those that are float already.

    Each is judged with all others float. The other way round, what little it gains drowns in the
    noise of the rest.

    Args:
      make: makes the int8 file with the operators of a further pattern left float.
      reference: logits (n, classes) of the float file on *pixels*.
    """
    plain = make(None)
    errors = {}
    for name, pattern in cuts.items():
        if plain != (spared := make(pattern)) and len(spared) <= len(plain) * (1 + most_growth):
            alone = make("|".join(other for other in cuts.values() if other != pattern))
            logits = batch_inference.logits(alone, pixels[:IMAGES], scaling)
            errors[name] = float(np.square(logits - reference[:IMAGES]).mean())
    return sorted(errors, key=lambda name: -errors[name])
