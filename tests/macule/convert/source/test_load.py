"""Models that cannot be loaded are rejected in one sentence with a fix."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert import export
from macule.convert.errors import BadInput
from macule.convert.source import load, validation
from support import keras_models
from support.service import needs_tensorflow

h5py = pytest.importorskip("h5py")

pytestmark = [
    needs_tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 83000000\n"
WRONG_FILES = {
    "Git LFS pointer": (POINTER, "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html>\n<html>", "download the raw file"),
    "text": (b"404: Not Found", "model.save"),
    "JSON": (b'{"format": "layers-model"}', "model.save"),
    "empty": (b"", "download or save"),
    "pickle": (b"\x80\x04\x95\x00\x00\x00", "model.save"),
    "gzip": (b"\x1f\x8b\x08\x00", "extract"),
    "not a Keras": (bytes(range(256)), "model.save"),
}


def refusal(path: Path, constants: dict[str, float] | None = None) -> str:
    """Return the sentence with which a model is rejected."""
    with pytest.raises(BadInput) as refused:
        load.load(path, constants or {})
    text = str(refused.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def save(path: Path, *layers: Any, shape: tuple[int, ...] = (16, 16, 3), **setup: Any) -> Path:
    """Save a Sequential model of Keras 3."""
    import keras

    model = keras.Sequential([keras.Input(shape), *layers])
    if setup:
        model.compile(**setup)
    model.save(path)
    return path


def body() -> list[Any]:
    """Return a convolution with global average pooling."""
    import keras

    return [keras.layers.Conv2D(4, 3, 2), keras.layers.GlobalAveragePooling2D()]


def dense(*given: Any) -> Any:
    """Return a Dense layer of Keras 3."""
    import keras

    return keras.layers.Dense(*given)


@pytest.mark.parametrize("what", WRONG_FILES)
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.tflite"])
def test_files_are_recognised_by_their_bytes(what: str, name: str, tmp_path: Path) -> None:
    """Under any file name the error says what the file is and what to do."""
    content, way = WRONG_FILES[what]
    (tmp_path / name).write_bytes(content)

    text = refusal(tmp_path / name)

    assert what in text
    assert way in text


def test_names_do_not_matter(tmp_path: Path) -> None:
    """An archive named `.h5` loads, and so does an HDF5 file named `.keras`."""
    path = save(tmp_path / "model.keras", *body(), dense(3, "softmax"))

    source = load.load(path.rename(tmp_path / "model.h5"))

    assert source.classes == 3


@pytest.mark.parametrize("kind", ["flat", "logits", "old flat", "lite"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_truncated_files_are_rejected(kind: str, share: float, tmp_path: Path) -> None:
    """A file truncated anywhere is reported as damaged."""
    path = keras_models.ZOO[kind].write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert "damaged" in refusal(path)


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.index", "data"])
def test_incomplete_folders_are_rejected(part: str, tmp_path: Path) -> None:
    """A SavedModel with a truncated or missing part is rejected."""
    path = keras_models.ZOO["exported"].write(tmp_path)
    file = next(path.glob("variables/*.data*")) if part == "data" else path / part
    content = file.read_bytes()
    file.unlink()
    if "index" not in part:
        file.write_bytes(content[: len(content) // 3])

    assert "save" in refusal(path) or "copy the whole folder" in refusal(path)


def test_missing_paths_and_folders_without_a_model(tmp_path: Path) -> None:
    """A missing path and a folder that is no SavedModel are named."""
    assert "check the path" in refusal(tmp_path / "model.keras")
    assert "no saved_model.pb" in refusal(tmp_path)


def test_zips_around_a_model_are_rejected(tmp_path: Path) -> None:
    """A zip with a model inside, as Teachable Machine gives it, must be unpacked."""
    with zipfile.ZipFile(tmp_path / "converted.zip", "w") as file:
        file.writestr("keras_model.h5", b"")

    assert "extract it" in refusal(tmp_path / "converted.zip")


def test_weights_alone_are_rejected(tmp_path: Path) -> None:
    """An `.h5` of weights has no network."""
    import keras

    model = keras.Sequential([keras.Input((16, 16, 3)), *body(), dense(3)])
    model.save_weights(tmp_path / "model.weights.h5")

    assert "weights without their network" in refusal(tmp_path / "model.weights.h5")


OUTPUTS: dict[str, tuple[Callable[[], list[Any]], dict[str, Any], str]] = {
    "sigmoids": (lambda: [*body(), dense(3, "sigmoid")], {}, "independent sigmoids"),
    "sigmoids of logits": (lambda: [*body(), dense(3)], {"loss": "binary_crossentropy"}, "sigmoid"),
    "regression": (lambda: [*body(), dense(1)], {}, "regression"),
    "regression of four": (lambda: [*body(), dense(4)], {"loss": "mse"}, "predict numbers"),
    "softmax of one": (lambda: [*body(), dense(1, "softmax")], {}, "always 1"),
    "relu": (lambda: [*body(), dense(3, "relu")], {}, "sum to 1"),
    "tanh": (lambda: [*body(), dense(3, "tanh")], {}, "sum to 1"),
    "maps": (lambda: body()[:1], {}, "one row of probabilities"),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_are_no_distribution_are_rejected(what: str, tmp_path: Path) -> None:
    """Outputs that do not name one of several labels are rejected with the reason."""
    make, setup, words = OUTPUTS[what]

    assert words in refusal(save(tmp_path / "model.keras", *make(), **setup))


def test_one_logit_with_a_binary_loss_is_a_sigmoid(tmp_path: Path) -> None:
    """A linear unit trained with binary cross-entropy has two labels."""
    import keras

    setup = {"loss": keras.losses.BinaryCrossentropy(from_logits=True)}
    source = load.load(save(tmp_path / "model.keras", *body(), dense(1), **setup))

    answer = load.predict(source, load.sample_images(source, 3, 16, 16))

    assert (source.classes, source.output) == (2, "logits")
    assert answer.sum(axis=1) == pytest.approx([1, 1, 1])


def test_two_outputs_are_rejected(tmp_path: Path) -> None:
    """Models with several outputs are rejected."""
    import keras

    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, [dense(3, "softmax")(x), dense(2)(x)]).save(tmp_path / "model.keras")

    assert "2 outputs" in refusal(tmp_path / "model.keras")


@pytest.mark.parametrize("shape", [(20,), (16, 16, 4), (3, 16, 16)])
def test_inputs_that_are_no_image_are_rejected(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Rows, four channels and channels first are rejected with the shape."""
    import keras

    layers = [keras.layers.Flatten(), dense(3, "softmax")]

    text = refusal(save(tmp_path / "model.keras", *layers, shape=shape))

    assert "x".join(map(str, shape)) in text
    assert "channels last" in text


def test_other_inputs_can_be_constants(tmp_path: Path) -> None:
    """A second input is rejected by name, and can be held constant, also with maps."""
    model = keras_models.informed(keras_models.three())
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    others = [np.full((3, 1), 0.5, np.float32), np.full((3, 2), 1, np.float32)]

    text = refusal(tmp_path / "model.keras")
    source = load.load(tmp_path / "model.keras", {"age": 0.5, "sex": 1})

    assert "--constant age=0 --constant sex=0" in text
    assert "has no input agee" in refusal(tmp_path / "model.keras", {"agee": 1})
    expected = np.asarray(model([images, *others], training=False))
    assert load.predict(source, images) == pytest.approx(expected, abs=1e-5)
    assert export.export(source, 32, 32).cam["faithful"]


def test_weights_that_are_nan_are_rejected(tmp_path: Path) -> None:
    """One NaN among the weights is enough."""
    import keras

    model = keras.Sequential([keras.Input((16, 16, 3)), *body(), dense(3, "softmax")])
    arrays = model.get_weights()
    arrays[0][0, 0, 0, 0] = np.nan
    model.set_weights(arrays)
    model.save(tmp_path / "model.keras")

    assert "not numbers" in refusal(tmp_path / "model.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("family", ["keras", "tf_keras"])
@pytest.mark.filterwarnings("ignore:You are saving:UserWarning")
def test_lambda_layers_do_not_run(family: str, suffix: str, tmp_path: Path) -> None:
    """A Lambda layer is found in the config before any Keras could run its code."""
    keras = pytest.importorskip(family)
    mark = tmp_path / "ran"
    code = f"lambda x: (x, __import__('pathlib').Path({str(mark)!r}).touch())[0]"
    layers = [keras.layers.Lambda(eval(code), output_shape=(16, 16, 3)), keras.layers.Flatten()]  # noqa: S307
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Dense(3)])
    model.save(tmp_path / f"model{suffix}")
    mark.unlink(missing_ok=True)

    text = refusal(tmp_path / f"model{suffix}")

    assert "Lambda" in text
    assert "Rescaling" in text
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("family", ["keras", "tf_keras"])
@pytest.mark.filterwarnings("ignore:You are saving:UserWarning")
def test_custom_classes_are_rejected(family: str, suffix: str, tmp_path: Path) -> None:
    """A custom layer is named, with Keras's layers or an export as the fix."""
    keras = pytest.importorskip(family)

    class Swirl(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    model = keras.Sequential([keras.Input((16, 16, 3)), Swirl(), keras.layers.Flatten()])
    model.save(tmp_path / f"model{suffix}")

    text = refusal(tmp_path / f"model{suffix}")

    assert "needs Swirl" in text
    assert "model.export()" in text


CONFIGS = {
    "TFOpLambda": {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
    "py_function": {"class_name": "TFOpLambda", "config": {"function": "py_function"}},
    "raw operator": {
        "class_name": "TensorFlowOpLayer",
        "config": {"node_def": {"op": "WriteFile"}},
    },
    "module": {"class_name": "system", "module": "os", "config": {}},
    "function": {"class_name": "function", "module": "keras.utils", "config": "get_file"},
    "torch": {"class_name": "TorchModuleWrapper", "module": "keras.layers", "config": {}},
    "vocabulary": {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
    "package": {"class_name": "A", "registered_name": "mine>A", "module": None, "config": {}},
}


@pytest.mark.parametrize("what", CONFIGS)
def test_configs_with_unsafe_references_are_rejected(what: str) -> None:
    """A config that runs code or opens files is rejected at any depth."""
    with pytest.raises(BadInput):
        validation.check_config("model.keras", {"layers": [{"inner": [CONFIGS[what]]}]})


@pytest.mark.parametrize(
    "called", ["math.truediv", "math.subtract", "__operators__.getitem", "cast", "image.resize"]
)
def test_arithmetic_in_a_config_is_allowed(called: str) -> None:
    """Scaling written as arithmetic runs only TensorFlow's own operators."""
    validation.check_config(
        "model.h5", {"class_name": "TFOpLambda", "config": {"function": called}}
    )


def test_arrays_in_other_files_are_rejected(tmp_path: Path) -> None:
    """An `.h5` with external links to other files is rejected."""
    path = keras_models.ZOO["logits"].write(tmp_path)
    with h5py.File(path, "r+") as file:
        file["model_weights"]["stolen"] = h5py.ExternalLink("/etc/other.h5", "/")

    assert "reads another file" in refusal(path)


def test_archives_that_write_elsewhere_are_rejected(tmp_path: Path) -> None:
    """A member outside the archive's folder is rejected."""
    path = keras_models.ZOO["flat"].write(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../assets.txt", "")

    assert "outside its folder" in refusal(path)


@pytest.mark.parametrize("what", ["read", "write", "python", "save"])
def test_graphs_with_unsafe_operators_are_rejected(what: str, tmp_path: Path) -> None:
    """A graph that reads or writes files, or calls Python, is rejected before it runs."""
    import tensorflow as tf

    mark = str(tmp_path / "mark")

    def serve(image: Any) -> Any:
        row = tf.nn.softmax(tf.reduce_mean(image, [1, 2]))
        if what == "read":
            return row + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)
        if what == "write":
            tf.io.write_file(mark, "x")
        if what == "save":
            tf.raw_ops.SaveV2(
                prefix=mark, tensor_names=["x"], shape_and_slices=[""], tensors=[image]
            )
        if what == "python":
            return tf.reshape(tf.numpy_function(lambda x: x, [row], tf.float32), (1, 3))
        return row

    module = tf.Module()
    shape = tf.TensorSpec((1, 16, 16, 3), tf.float32)
    module.serve = tf.function(serve, input_signature=[shape], autograph=False)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)

    assert "can access files or code outside the model" in refusal(tmp_path / "model")
    assert not Path(mark).exists()
    assert not list(tmp_path.glob("mark*"))


def test_a_softmax_in_pieces_is_recognised_by_its_values(tmp_path: Path) -> None:
    """A graph that divides exponentials has probabilities; their logarithms become logits."""
    import tensorflow as tf
    from macule.convert.source import output_check, tflite

    module = tf.Module()
    random = np.random.default_rng(1)
    module.kernel = tf.Variable(random.normal(0, 1, (3, 3, 3, 4)), dtype=tf.float32)

    def serve(image: Any) -> Any:
        maps = tf.nn.relu(tf.nn.conv2d(image, module.kernel, 2, "SAME"))
        powers = tf.exp(tf.reduce_mean(maps, [1, 2]))
        return {"scores": powers / tf.reduce_sum(powers, 1, keepdims=True)}

    shape = tf.TensorSpec((1, 16, 16, 3), tf.float32, "photo")
    module.serve = tf.function(serve, input_signature=[shape], autograph=False)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)

    source = load.load(tmp_path / "model")
    made = export.export(source, 16, 16)
    images = load.sample_images(source, 4, 16, 16)

    assert source.output == "softmax"
    assert "softmax" in made.cam["why"]
    rows = tflite.run_outputs(made.content, images)
    assert output_check.to_probabilities(rows[0], "logits") == pytest.approx(
        load.predict(source, images), abs=1e-4
    )


def test_configs_of_keras_2_2_load(tmp_path: Path) -> None:
    """A Sequential whose config is a bare list, as of Keras 2.2.2, loads."""
    import warnings

    k = keras_models.two()
    model = k.Sequential([k.Input((16, 16, 3)), k.layers.Conv2D(4, 3, 2, activation="relu")])
    model.add(k.layers.GlobalAveragePooling2D())
    model.add(k.layers.Dense(3, "softmax"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.save(tmp_path / "model.h5")
    keras_models.aged(tmp_path / "model.h5", "2.2.2")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        document = json.loads(file.attrs["model_config"])
        layers = document["config"]["layers"]
        document["config"] = [layer for layer in layers if layer["class_name"] != "InputLayer"]
        document["config"][0]["config"]["batch_input_shape"] = [None, 16, 16, 3]
        file.attrs["model_config"] = json.dumps(document).encode()
        del file.attrs["backend"]

    source = load.load(tmp_path / "model.h5")

    images = load.sample_images(source, 3, 16, 16)
    assert source.kind == "Keras 2"
    assert load.predict(source, images) == pytest.approx(
        np.asarray(model(images, training=False)), abs=1e-5
    )
