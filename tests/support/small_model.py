"""A small classifier as a float LiteRT file, and images for it."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SIDE_PX = 32
SCALING = ((127.0,) * 3, (128.0,) * 3)
LABELS = ["a", "b", "c"]


@cache
def content(outlier: float = 1.0) -> bytes:
    """Stem, depthwise and pointwise convolution, residual, ReLU6; pooling and Dense.

    *outlier* widens one channel between the last two convolutions, and the next layer undoes it.
    """
    keras = pytest.importorskip("keras")
    from macule.convert import export

    keras.utils.set_random_seed(6)
    layers = keras.layers
    inputs = keras.Input((SIDE_PX, SIDE_PX, 3))
    stem = layers.ReLU(6.0)(layers.Conv2D(16, 3, 2, "same", name="stem")(inputs))
    x = layers.DepthwiseConv2D(3, 2, "same", name="deep")(stem)
    x = layers.Conv2D(16, 1, name="point")(layers.ReLU(6.0)(x))
    x = layers.Add()([x, layers.Conv2D(16, 1, 2, name="short")(stem)])
    x = layers.Conv2D(24, 3, padding="valid", activation="relu", name="wide")(x)
    x = layers.Conv2D(32, 1, activation="relu", name="last")(x)
    body = keras.Model(inputs, x)
    random = np.random.default_rng(2)
    for layer in body.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * 1.5, random.normal(0, 0.1, bias.shape)])
    widen(body.get_layer("wide"), body.get_layer("last"), outlier)
    return bytes(
        export.export_with_head(body, random.normal(0, 1, (32, 3)), random.normal(0, 0.1, 3))
    )


def widen(made: Any, read: Any, factor: float) -> None:
    """Make one channel *factor* times as large, without changing the output."""
    kernel, bias = made.get_weights()
    kernel[..., 0], bias[0] = kernel[..., 0] * factor, bias[0] * factor
    made.set_weights([kernel, bias])
    kernel, bias = read.get_weights()
    kernel[..., 0, :] /= factor
    read.set_weights([kernel, bias])


@cache
def pixels(count: int = 40, seed: int = 1) -> NDArray[np.uint8]:
    """Return seeded images of blobs on skin colour."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    drawn = np.empty((count, SIDE_PX, SIDE_PX, 3))
    for place in range(count):
        inside = (x - random.uniform(8, 24)) ** 2 + (y - 16) ** 2 < random.uniform(4, 14) ** 2
        ground, spot = random.uniform(120, 255, 3), random.uniform(0, 160, 3)
        drawn[place] = np.where(inside[..., None], spot, ground)
        drawn[place] += random.normal(0, 8, drawn[place].shape)
    return np.clip(drawn, 0, 255).astype(np.uint8)
