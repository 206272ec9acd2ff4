"""A small Keras classifier through export and quantization."""

from typing import Any

import numpy as np
import pytest
from convert import export, metrics, quantize, run
from numpy.typing import NDArray

SIDE_PX = 32
SCALING = ((127.0,) * 3, (128.0,) * 3)
BOUNDS = (-127 / 128, 1.0)


@pytest.fixture(scope="module")
def model() -> Any:
    """A classifier of five classes: two convolutions, pooling, dropout, Dense with softmax."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.Conv2D(16, 3, 2, "same")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(24, 3, 2, "same", activation="relu")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(5, "softmax", kernel_initializer="he_normal")(x))


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Sixty seeded images of blobs on skin-coloured ground."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    drawn = np.empty((60, SIDE_PX, SIDE_PX, 3))
    for place in range(len(drawn)):
        radius, ground, spot = (
            random.uniform(4, 14),
            random.uniform(120, 255, 3),
            random.uniform(0, 160, 3),
        )
        inside = ((x - 16) ** 2 + (y - 16) ** 2 < radius**2)[..., None]
        drawn[place] = np.where(inside, spot, ground) + random.normal(0, 8, drawn[place].shape)
    return np.clip(drawn, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def content(model: Any) -> bytes:
    """The model as a float file."""
    return export.export(*export.split(model))


def test_float_file_gives_keras_logits(
    model: Any, content: bytes, images: NDArray[np.uint8]
) -> None:
    """The softmax of the file's logits equals Keras's answer within 1e-4."""
    expected = np.asarray(model(run.scale(images, SCALING)))

    logits = run.logits(content, images, SCALING)

    assert metrics.softmax(logits) == pytest.approx(expected, abs=1e-4)


def test_maps_average_to_the_logits(model: Any, content: bytes, images: NDArray[np.uint8]) -> None:
    """The mean of each class's map plus its bias is its logit: the maps explain all of it."""
    _, _, bias = export.split(model)

    for logits, cams in run.outputs(content, images[:5], SCALING):
        assert cams.shape == (8, 8, 5)
        assert cams.mean(axis=(0, 1)) + bias == pytest.approx(logits, abs=1e-4)


def test_maps_are_grad_cam(model: Any, content: bytes, images: NDArray[np.uint8]) -> None:
    """A map equals features weighted by pooled gradients, as Grad-CAM defines it, times h * w."""
    tf = pytest.importorskip("tensorflow")
    body, kernel, bias = export.split(model)
    features = tf.convert_to_tensor(body(run.scale(images[:1], SCALING)))
    with tf.GradientTape() as tape:
        tape.watch(features)
        logit = (tf.reduce_mean(features, [1, 2]) @ kernel + bias)[0, 2]
    weights = tf.reduce_mean(tape.gradient(logit, features), [1, 2])
    grad_cam = np.asarray(tf.reduce_sum(features * weights[:, None, None], -1))[0]

    ((_, cams),) = run.outputs(content, images[:1], SCALING)

    assert cams[..., 2] == pytest.approx(grad_cam * 64, abs=1e-3)


def test_one_signature_of_batch_one(content: bytes) -> None:
    """The file has one signature, batch 1, and outputs told apart by name and by rank."""
    reader = quantize.interpreter(content)

    signatures = reader.get_signature_list()

    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["cams", "logits"]}}
    assert reader.get_input_details()[0]["shape"].tolist() == [1, SIDE_PX, SIDE_PX, 3]
    assert sorted(len(detail["shape"]) for detail in reader.get_output_details()) == [2, 4]


def test_int8_takes_pixels_without_loss(content: bytes, images: NDArray[np.uint8]) -> None:
    """With exact bounds the int8 input is pixel - 128 for every pixel value."""
    detail = quantize.interpreter(shrink(content, images)).get_input_details()[0]
    pixels = np.arange(256, dtype=np.uint8)

    quantized = run.fit(run.scale(pixels[:, None], SCALING), detail)[:, 0]

    assert detail["dtype"] is np.int8
    assert (quantized == pixels.astype(int) - 128).all()


def test_int8_with_a_float_head_agrees(content: bytes, images: NDArray[np.uint8]) -> None:
    """The int8 file answers as the float one, is smaller, and its logits are not stepped."""
    small = shrink(content, images)
    exact = metrics.softmax(run.logits(content, images, SCALING))

    logits = run.logits(small, images, SCALING)
    figures = metrics.compare(metrics.softmax(logits), exact)

    assert figures["top1_agreement"] >= 0.95
    assert figures["mean_change"] < 0.02
    assert len(np.unique(logits)) > 0.9 * logits.size


def test_plain_int8_has_integer_outputs(content: bytes, images: NDArray[np.uint8]) -> None:
    """Without a pattern everything is int8, outputs included, and `run` widens them."""
    plain = quantize.int8(content, samples(images), BOUNDS)

    details = quantize.interpreter(plain).get_output_details()

    assert {detail["dtype"] for detail in details} == {np.int8}
    assert run.logits(plain, images[:2], SCALING).dtype == np.float32


def test_fp16_agrees(content: bytes, images: NDArray[np.uint8]) -> None:
    """Half-precision weights move no probability by more than 1 %."""
    exact = metrics.softmax(run.logits(content, images, SCALING))

    halved = metrics.softmax(run.logits(quantize.fp16(content), images, SCALING))

    assert metrics.compare(halved, exact)["max_change"] < 0.01


def test_other_heads_are_refused(model: Any) -> None:
    """A model without pooling before its Dense layer has no faithful maps, and split says so."""
    keras = pytest.importorskip("keras")
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])

    with pytest.raises(ValueError, match="global average pooling"):
        export.split(flat)


def samples(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Calibration inputs."""
    return [run.scale(image[None], SCALING) for image in images[:40]]


def shrink(content: bytes, images: NDArray[np.uint8]) -> bytes:
    """The int8 file with a float head."""
    return quantize.int8(content, samples(images), BOUNDS, quantize.head(content))
