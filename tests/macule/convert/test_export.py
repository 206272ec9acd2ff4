"""A small Keras classifier through export and quantization."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert import export
from macule.convert.errors import BadInput
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.graph import cams, gradcam
from macule.convert.quantization import quantize
from macule.convert.source import load, tflite
from macule.inference.runtime import tensors
from macule.inference.runtime.litert import Session
from numpy.typing import NDArray
from support import keras_models
from support.service import needs_tensorflow

pytestmark = [
    pytest.mark.slow,  # real conversions; test_convert.py has one in each run
    needs_tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIDE_PX = 32
SCALING = ((127.0,) * 3, (128.0,) * 3)
BOUNDS = (-127 / 128, 1.0)


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a classifier of five classes: convolutions, pooling, dropout, Dense with softmax."""
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
    """Return sixty seeded images of blobs on skin colour."""
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
    """Return the model as a float file without its softmax."""
    *_, pool, _, dense = model.layers
    kernel, bias = (np.array(part.value) for part in (dense.kernel, dense.bias))
    return export.export_with_head(type(model)(model.input, pool.input), kernel, bias)


def test_the_float_file_gives_keras_logits(
    model: Any, content: bytes, images: NDArray[np.uint8]
) -> None:
    """The softmax of the file's logits equals Keras's answer within 1e-4."""
    expected = np.asarray(model(batch_inference.scale(images, SCALING)))

    logits = batch_inference.logits(content, images, SCALING)

    assert metrics.softmax(logits) == pytest.approx(expected, abs=1e-4)


def test_maps_average_to_the_logits(model: Any, content: bytes, images: NDArray[np.uint8]) -> None:
    """The mean of each class's map plus its bias is its logit."""
    bias = np.array(model.layers[-1].bias.value)

    for answer in batch_inference.run_outputs(content, images[:5], SCALING):
        logits, maps = answer[tensors.LOGITS], answer[tensors.MAPS]
        assert maps.shape == (8, 8, 5)
        assert maps.mean(axis=(0, 1)) + bias == pytest.approx(logits, abs=1e-4)


def test_one_signature_of_batch_one(content: bytes) -> None:
    """The file has one signature, batch 1, and outputs that differ in name and rank."""
    reader = quantize.open_interpreter(content)

    signatures = reader.get_signature_list()

    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["cams", "logits"]}}
    assert reader.get_input_details()[0]["shape"].tolist() == [1, SIDE_PX, SIDE_PX, 3]
    assert sorted(len(detail["shape"]) for detail in reader.get_output_details()) == [2, 4]


def test_int8_takes_pixels_without_loss(content: bytes, images: NDArray[np.uint8]) -> None:
    """With exact bounds the int8 input is pixel - 128 for every pixel value."""
    (source,) = Session(bytearray(shrink(content, images))).inputs
    pixels = np.arange(256, dtype=np.uint8)

    taken = batch_inference.quantize(batch_inference.scale(pixels[:, None], SCALING), source)[:, 0]

    assert source.dtype == "int8"
    assert (taken == pixels.astype(int) - 128).all()


def test_int8_with_a_float_head_agrees(content: bytes, images: NDArray[np.uint8]) -> None:
    """The int8 file answers like the float file, is smaller, and its logits are not quantized."""
    small = shrink(content, images)
    exact = metrics.softmax(batch_inference.logits(content, images, SCALING))

    logits = batch_inference.logits(small, images, SCALING)
    figures = metrics.compare_probabilities(metrics.softmax(logits), exact)

    assert figures["top1_agreement"] >= 0.95
    assert figures["mean_change"] < 0.02
    assert len(np.unique(logits)) > 0.9 * logits.size


def test_plain_int8_has_integer_outputs(content: bytes, images: NDArray[np.uint8]) -> None:
    """Without a pattern everything is int8, outputs included, and `run` converts them."""
    plain = quantize.int8(content, samples(images), BOUNDS)

    details = quantize.open_interpreter(plain).get_output_details()

    assert {detail["dtype"] for detail in details} == {np.int8}
    assert batch_inference.logits(plain, images[:2], SCALING).dtype == np.float32


def test_fp16_agrees(content: bytes, images: NDArray[np.uint8]) -> None:
    """Half-precision weights change no probability by more than 1 %."""
    exact = metrics.softmax(batch_inference.logits(content, images, SCALING))

    halved = metrics.softmax(batch_inference.logits(quantize.fp16(content), images, SCALING))

    assert metrics.compare_probabilities(halved, exact)["max_change"] < 0.01


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> load.Source:
    """Return a convolutional model of 32 x 32 px with global average pooling, from its file."""
    return load.load(keras_models.ZOO["flat"].write(tmp_path_factory.mktemp("flat")))


def test_another_size_is_rebuilt(flat: load.Source) -> None:
    """A convolutional model of fixed size is exported for another, non-square size."""
    images = load.sample_images(flat, 4, 48, 24)

    made = export.export(flat, 48, 24)
    logits, maps = tflite.run_outputs(made.content, images)

    assert maps.shape == (4, 12, 6, 4)
    assert metrics.softmax(logits) == pytest.approx(load.predict(flat, images), abs=1e-3)
    assert made.cam["faithful"]


@pytest.mark.parametrize("kind", ["flatten", "attentive", "lite"])
def test_a_built_in_size_is_not_changed(kind: str, tmp_path: Path) -> None:
    """A size that layers depend on cannot be changed; the error says so."""
    source = load.load(keras_models.ZOO[kind].write(tmp_path))

    with pytest.raises(BadInput, match=r"takes .*32 (x 32 )?px.* convert ") as refused:
        export.export(source, 48, 48)

    assert "\n" not in str(refused.value)


def test_lost_weights_are_detected(flat: load.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that drops the weights is detected by the file's size."""
    real = export.write_tflite
    monkeypatch.setattr(export, "write_tflite", lambda *given: real(*given)[:500])

    with pytest.raises(BadInput, match="lost weights"):
        export.export(flat, SIDE_PX, SIDE_PX)


def test_changed_answers_are_detected(flat: load.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that answers differently from the model is detected."""
    monkeypatch.setattr(load, "predict", lambda _, images: np.full((len(images), 4), 0.25))

    with pytest.raises(BadInput, match="gives different outputs"):
        export.export(flat, SIDE_PX, SIDE_PX)


def test_sigmoid_becomes_two_labels(tmp_path: Path) -> None:
    """Logits are [0, z], and the maps of the two labels are opposite."""
    source = load.load(keras_models.ZOO["sigmoid"].write(tmp_path))

    made = export.export(source, SIDE_PX, SIDE_PX)
    logits, maps = tflite.run_outputs(made.content, load.sample_images(source, 3, SIDE_PX, SIDE_PX))

    assert (logits[:, 0] == 0).all()
    assert (maps[..., 0] == -maps[..., 1]).all()


def test_quantized_maps_of_a_head_with_relu(tmp_path: Path) -> None:
    """A ReLU between two Dense layers keeps its maps and answers in int8."""
    source = load.load(keras_models.ZOO["deep"].write(tmp_path))
    made = export.export(source, SIDE_PX, SIDE_PX)
    images = load.sample_images(source, 24, SIDE_PX, SIDE_PX)
    bounds = (float(images.min()), float(images.max()))
    exact = tflite.run_outputs(made.content, images)

    small = quantize.int8(
        made.content,
        [image[None] for image in images],
        bounds,
        quantize.float_pattern(made.content),
    )
    logits, maps = tflite.run_outputs(small, images)

    figures = metrics.compare_probabilities(metrics.softmax(logits), metrics.softmax(exact[0]))
    assert figures["mean_change"] < 0.02
    assert gradcam.correlation(maps, exact[1]) > 0.95


def test_wide_hidden_layers_are_not_kept_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden layer too large for float is in `tail`, and maps and answers are correct."""
    monkeypatch.setattr(cams, "MAX_FLOAT_HIDDEN_BYTES", 0)
    source = load.load(keras_models.ZOO["deep"].write(tmp_path))

    made = export.export(source, SIDE_PX, SIDE_PX)

    assert b"tail/" in made.content
    assert made.cam["faithful"]


def test_a_tflite_is_wrapped_unchanged(tmp_path: Path) -> None:
    """Its bytes are unchanged, its precision is reported, and it returns probabilities."""
    path = keras_models.ZOO["lite int8"].write(tmp_path)
    source = load.load(path)

    made = export.export(source, SIDE_PX, SIDE_PX)

    assert made.content == path.read_bytes()
    assert (made.precision, made.output) == ("int8", "probabilities")


@pytest.mark.parametrize(
    ("kind", "precision"), [("fp32", "fp32"), ("fp16", "fp16"), ("dynamic", "dynamic")]
)
def test_the_precision_of_a_tflite_is_read(kind: str, precision: str, tmp_path: Path) -> None:
    """The precision of a `.tflite` is read from its tensors."""
    source = load.load(keras_models.lite(kind)(tmp_path))

    assert export.export(source, SIDE_PX, SIDE_PX).precision == precision


def test_a_tflite_without_signature_gets_one(content: bytes) -> None:
    """Files of older converters get the signature that quantizing and serving need."""
    from ai_edge_litert import schema_py_generated as schema

    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")

    signed = tflite.add_signature(bytes(builder.Output()))

    assert list(quantize.open_interpreter(signed).get_signature_list()) == ["serving_default"]
    assert quantize.input_names(signed)[1] == "image"


def samples(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return calibration inputs."""
    return [batch_inference.scale(image[None], SCALING) for image in images[:40]]


def shrink(content: bytes, images: NDArray[np.uint8]) -> bytes:
    """Return the int8 file with a float head."""
    return quantize.int8(content, samples(images), BOUNDS, quantize.float_pattern(content))
