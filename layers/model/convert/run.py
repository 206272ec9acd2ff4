"""A LiteRT file over many images: what quantizing and measuring need, one thread, no server."""

from collections.abc import Iterable

import numpy as np
from macule.model import as_logits, floats, quantized
from numpy.typing import NDArray

Scaling = tuple[tuple[float, ...], tuple[float, ...]]


def scale(pixels: NDArray[np.uint8], scaling: Scaling) -> NDArray[np.float32]:
    """Bring uint8 pixels (1, side, side, 3) to the network's range: (pixel - mean) / std."""
    mean, std = (np.asarray(part, np.float32) for part in scaling)
    return np.asarray((pixels - mean) / std, np.float32)


def bounds(scaling: Scaling) -> tuple[float, float]:
    """Least and largest scaled pixel, of any channel."""
    ends = [scale(np.full((1, 1, 1, 1), level, np.uint8), scaling) for level in (0, 255)]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))


def outputs(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling
) -> list[list[NDArray[np.float32]]]:
    """Run the file *content* on each image (side, side, 3).

    Returns: per image its outputs, lowest rank first (logits before maps), without batch axis.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    targets = sorted(interpreter.get_output_details(), key=lambda detail: len(detail["shape"]))
    answers = []
    for image in images:
        interpreter.set_tensor(source["index"], quantized(scale(image[None], scaling), source))
        interpreter.invoke()
        answers.append([floats(interpreter.get_tensor(t["index"])[0], t) for t in targets])
    return answers


def logits(
    content: bytes,
    images: Iterable[NDArray[np.uint8]],
    scaling: Scaling,
    output: str = "logits",
) -> NDArray[np.float32]:
    """Run the file on each image; returns the logits (n, classes).

    *output* is what its row holds, as the card says it: logits, probabilities or sigmoid.
    """
    rows = (answer[0] for answer in outputs(content, images, scaling))
    return np.stack([as_logits(row, output) for row in rows])
