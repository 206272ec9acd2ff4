"""Inference of a LiteRT file on many images, with one thread, to quantize and measure."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from macule.inference.runtime.tensors import as_logits, dequantize, quantize

OOD_SCORE, LOGITS, MAPS = 1, 2, 4  # ranks of the outputs
Scaling = tuple[tuple[float, ...], tuple[float, ...]]


def scale(pixels: NDArray[np.uint8], scaling: Scaling) -> NDArray[np.float32]:
    """Scale uint8 pixels (n, h, w, c) to the network's range: (pixel - mean) / std."""
    mean, std = (np.asarray(part, np.float32) for part in scaling)
    return np.asarray((pixels - mean) / std, np.float32)


def scaled_bounds(scaling: Scaling) -> tuple[float, float]:
    """Return the smallest and largest scaled pixel value of all channels."""
    ends = [scale(np.full((1, 1, 1, 1), level, np.uint8), scaling) for level in (0, 255)]
    return float(min(end.min() for end in ends)), float(max(end.max() for end in ends))


def run_outputs(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling
) -> Iterator[dict[int, NDArray[np.float32]]]:
    """Run the file *content* on each image (side, side, 3).

    Yields: the outputs per image, without the batch axis, by their rank with it: OOD_SCORE,
    LOGITS, MAPS.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    targets = interpreter.get_output_details()
    for image in images:
        interpreter.set_tensor(source["index"], quantize(scale(image[None], scaling), source))
        interpreter.invoke()
        yield {
            len(t["shape"]): dequantize(interpreter.get_tensor(t["index"])[0], t) for t in targets
        }


def logits_and_ood_scores(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling, output: str = "logits"
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run the file on each image.

    *output* is the card's `output`: logits, probabilities or sigmoid.
    Returns: the logits (n, classes), and the OOD scores (n,) if the file has them.
    """
    rows, scores = [], []
    for answer in run_outputs(content, images, scaling):
        rows.append(as_logits(answer[LOGITS], output))
        scores += [answer[OOD_SCORE]] if OOD_SCORE in answer else []
    return np.stack(rows), np.stack(scores) if scores else None


def logits(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling, output: str = "logits"
) -> NDArray[np.float32]:
    """Run the file on each image; returns the logits (n, classes)."""
    return logits_and_ood_scores(content, images, scaling, output)[0]
