"""Inference of a LiteRT file on many images, with one thread, to quantize and measure."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import fromarray

from macule.inference.runtime import tensors
from macule.inference.runtime.litert import Session, Tensor
from macule.inference.runtime.tensors import LOGITS, OOD_SCORES

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

    Yields: the outputs per image by their rank: OOD_SCORES (1,) or (2,); LOGITS and MAPS without
    the batch axis.
    """
    session = Session(bytearray(content))
    for image in images:
        raw = session.run(quantize(scale(image[None], scaling), session.inputs[0]).tobytes())
        found = {}
        for part, tensor in zip(raw, session.outputs, strict=True):
            rank = len(tensor.shape)
            values = np.array(tensors.floats(part, tensor)).reshape(tensor.shape)
            found[rank] = values if rank == OOD_SCORES else values[0]
        yield found


def arrange(pixels: NDArray[np.uint8], channels: str) -> NDArray[np.uint8]:
    """Convert RGB pixels (n, h, w, 3) as `tensors.arrange` does: to (n, h, w, channels)."""
    arranged = [tensors.arrange(fromarray(image), channels) for image in pixels]
    return np.stack([np.atleast_3d(np.asarray(picture)) for picture in arranged])


def as_logits(scores: NDArray[np.float32], output: str) -> NDArray[np.float32]:
    """Convert scores (classes,) to logits as `tensors.as_logits` does."""
    return np.array(tensors.as_logits(scores.tolist(), output), np.float32)


def quantize(values: NDArray[np.float32], source: Tensor) -> NDArray[Any]:
    """Convert network input to the dtype of the model's input."""
    if source.dtype == "float32":
        return values
    steps = np.round(values / np.float32(source.scale)) + np.float32(source.zero_point)
    clipped: NDArray[np.float32] = np.clip(steps, *tensors.LIMITS[source.dtype])
    return clipped.astype(source.dtype)


def logits_and_ood_scores(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling, output: str = "logits"
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Run the file on each image.

    *output* is the card's `output`: logits, probabilities or sigmoid.
    Returns: the logits (n, classes), and the OOD scores if the file has them: (n, 1), or (n, 2) of
      a file that also scores clinical photos.
    """
    rows, scores = [], []
    for answer in run_outputs(content, images, scaling):
        rows.append(as_logits(answer[LOGITS], output))
        scores += [answer[OOD_SCORES]] if OOD_SCORES in answer else []
    return np.stack(rows), np.stack(scores) if scores else None


def logits(
    content: bytes, images: Iterable[NDArray[np.uint8]], scaling: Scaling, output: str = "logits"
) -> NDArray[np.float32]:
    """Run the file on each image; returns the logits (n, classes)."""
    return logits_and_ood_scores(content, images, scaling, output)[0]
