"""Small models: a classifier as a float LiteRT file with images for it, and a model of colours."""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.registry import model_card
from numpy.typing import NDArray
from PIL import Image

from support.images import saved

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


def write_colour_model(folder: Path, **changes: object) -> Path:
    """Write a model that sees only the colour of the upper left quarter of a photo.

    With red, green and blue from 0 to 1, the probabilities are the shares of the three colours,
    the distance is 4 x green, and the clinical score is 10 x blue - 5.

    *changes*: keys of its card that differ.
    """
    content = _colour_model()
    thresholds = {"inconclusive": 0.5, "unfamiliar": 2, "not_skin": 3, "not_dermoscopic": -1.5}
    card = {
        "schema": model_card.SCHEMA,
        "name": "colours",
        "version": "1",
        "file": "model.tflite",
        "sha256": sha256(content).hexdigest(),
        "precision": "fp32",
        "labels": ["red", "green", "blue"],
        "names": {"en": ["Red", "Green", "Blue"]},
        "side_px": SIDE_PX,
        "resize": "squash",
        "channels": "rgb",
        "scaling": {"mean": [0, 0, 0], "std": [255, 255, 255]},
        "temperature": 1,
        "thresholds": thresholds,
        "prediction_sets": {"80": 0.4, "90": 0.2, "95": 0.05},
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "model.tflite").write_bytes(content)
    (folder / model_card.FILE).write_text(json.dumps(card))
    return folder


@cache
def _colour_model() -> bytes:
    tf = pytest.importorskip("tensorflow")
    from macule.convert import export

    def serve(image: Any) -> dict[str, Any]:
        colour = tf.reduce_mean(image[:, : SIDE_PX // 2, : SIDE_PX // 2], [1, 2])
        scores = tf.stack([4 * colour[0, 1], 10 * colour[0, 2] - 5])
        return {"logits": tf.math.log(tf.maximum(colour, 1e-6)), "scores": scores}

    return export.write_tflite(serve, (SIDE_PX, SIDE_PX, 3))


def colour_photo(*quarters: tuple[int, int, int]) -> bytes:
    """Return a PNG of one colour, or of the colours of its four quarters, row by row."""
    image = Image.new("RGB", (2, 2))
    image.putdata(quarters if len(quarters) == 4 else quarters * 4)
    return saved(image.resize((4 * SIDE_PX,) * 2, Image.Resampling.NEAREST), "PNG")
