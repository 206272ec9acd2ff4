"""Augmented views of the training images, as far as the frozen layers see them.

The lower layers keep their ImageNet weights, so what they make of a view does not depend on the
fold. It is computed once and stored; each fold trains the upper layers on its own images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference
from macule.train import stored
from macule.train.images import augmentation
from macule.train.plan import TrainingPlan

Scaling = batch_inference.Scaling
View = NDArray[np.float16]
BATCH = 64


def split(body: Any, trained_from: str) -> tuple[Any, Any]:
    """Split a Keras model before the layer *trained_from*, which must be its only connection.

    Returns: the lower and the upper model; both share their layers with *body*.
    """
    import keras

    boundary = body.get_layer(trained_from).input
    return keras.Model(body.inputs, boundary), keras.Model(boundary, body.output)


def path_of(work: Path, epoch: int) -> Path:
    return work / "views" / f"epoch-{epoch}.npy"


def save(path: Path, computed: View) -> None:
    """Write the views of an epoch."""
    with stored.replacing(path) as file:
        np.save(file, computed)


def load(work: Path, epochs: int) -> Sequence[View]:
    """Map the views of all epochs, (n, h, w, c) each."""
    return [np.load(path_of(work, epoch), mmap_mode="r") for epoch in range(epochs)]


def draw(
    lower: Any, pixels: NDArray[np.uint8], scaling: Scaling, plan: TrainingPlan, epoch: int
) -> View:
    """Compute the output of *lower* for one augmented view of every image."""
    random = np.random.default_rng((plan.seed, epoch))
    mean, std = (np.asarray(part, np.float32) for part in scaling)
    parts = []
    for start in range(0, len(pixels), BATCH):
        chosen = pixels[start : start + BATCH]
        marked = np.stack([augmentation.add_artefacts(image, random) for image in chosen])
        crops = augmentation.random_crop(marked, plan.side_px, random)
        scaled = (augmentation.jitter_colour(crops, random) - mean) / std
        parts.append(lower.predict_on_batch(np.asarray(scaled)).astype(np.float16))
    return np.concatenate(parts)
