"""Restore a model file as a TensorFlow function, with the framework that wrote it."""

import contextlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from macule.convert.errors import BadInput
from macule.convert.source import validation
from macule.convert.source.inputs import Input, Shape, build_inputs, find_image_input, image_shape

# Errors that Keras raises for unreadable files; it has no specific class.
LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
CUSTOM_CLASS_MARKS = (
    "unknown layer",
    "unknown activation",
    "unknown object",
    "unknown function",
    "could not locate",
    "could not find class",
    "could not interpret",
    "not registered",
    "register_keras_serializable",
)


class Restored(NamedTuple):
    """A restored model.

    `run` maps a tensor (n, h, w, c) float32 to the output of the model, in inference mode.
    `names` maps layer names to class names; empty for a SavedModel.
    `owner` keeps the weights alive; `loss` is the compiled loss, or "".
    """

    kind: str
    run: Callable[[Any], Any]
    shape: Shape
    names: Mapping[str, str]
    loss: str
    owner: Any


def restore_archive(path: Path, constants: Mapping[str, float]) -> Restored:
    """Restore a `.keras` archive, of Keras 3 or of Keras 2.12 to 2.15."""
    document = validation.check_archive(path)
    with zipfile.ZipFile(path) as opened:
        try:
            version = str(json.loads(opened.read("metadata.json"))["keras_version"])
        except (KeyError, ValueError, TypeError):
            version = "3"
    loss = loss_name(document.get("compile_config"))
    return restore_keras(path, "model.keras", version, loss, constants)


def restore_h5(path: Path, constants: Mapping[str, float]) -> Restored:
    """Restore an `.h5` file, of Keras 3 or of Keras 2."""
    attributes = validation.check_h5(path)
    try:
        training = json.loads(attributes.get("training_config", "{}"))
    except ValueError:
        training = {}
    version = attributes.get("keras_version", "2")
    return restore_keras(path, "model.h5", version, loss_name(training), constants)


def restore_keras(
    path: Path, alias: str, version: str, loss: str, constants: Mapping[str, float]
) -> Restored:
    """Load with the Keras version that wrote the file, then with the other one.

    Keras 3 rejects many Keras 2 files (`groups` of a DepthwiseConv2D, nested Sequentials with one
    input), so tf-keras is tried first for these.
    """
    old = not version.startswith("3")
    failures = []
    for family in ("tf_keras", "keras") if old else ("keras", "tf_keras"):
        # Keras detects the format by the suffix only, which users can change
        with tempfile.TemporaryDirectory() as place, suppress_warnings():
            link = Path(place) / alias
            link.symlink_to(path.resolve())
            try:
                model = load_with(family, str(link))
            except LOAD_ERRORS as error:
                failures.append(error)
                continue
        kind = "Keras 2" if old else "Keras 3"
        return wrap_keras(path.name, kind, model, loss, constants)
    raise BadInput(unreadable_message(path.name, version, failures[0])) from failures[0]


def load_with(family: str, path: str) -> Any:
    """Load *path* with Keras 3 or tf-keras, without the training configuration."""
    if family == "keras":
        import keras

        model = keras.models.load_model(path, compile=False, safe_mode=True)
    else:
        import tf_keras

        model = tf_keras.models.load_model(path, compile=False, safe_mode=True)
    use_float32(model)
    return model


def unreadable_message(name: str, version: str, error: BaseException) -> str:
    """Return the error message for a file that Keras cannot load."""
    text = " ".join(str(error).split()).removeprefix("<").strip()
    lower = text.lower()
    if any(mark in lower for mark in CUSTOM_CLASS_MARKS):
        words = [word.strip("'\":.,`()") for word in text.split()]
        marks = [place for place, word in enumerate(words) if word.lower() in ("layer", "class")]
        what = words[marks[0] + 1] if marks and marks[0] + 1 < len(words) else ""
        return validation.custom_class_message(name, what)
    first = text.split(". ")[0].rstrip(".")[:160]
    return (
        f"{name} was written by Keras {version} and cannot be read ({first or type(error).__name__}"
        "): if it is complete, load it in its original environment and save it with model.export()."
    )


def use_float32(model: Any) -> None:
    """Make a mixed-precision model compute in float32; its weights are already float32."""
    for layer in iterate_layers(model):
        policy = getattr(layer, "dtype_policy", None)
        if policy is None or getattr(policy, "compute_dtype", "float32") == "float32":
            continue
        if hasattr(layer, "_set_dtype_policy"):
            layer._set_dtype_policy("float32")
        else:
            layer.dtype_policy = "float32"


def wrap_keras(
    name: str, kind: str, model: Any, loss: str, constants: Mapping[str, float]
) -> Restored:
    """Wrap a Keras 2 or 3 model as a function of the image."""
    import tensorflow as tf

    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise BadInput(
            f"{name} has no input shape: call the model on one image before model.save()."
        )
    inputs = [
        Input(str(t.name).split(":")[0], tuple(t.shape), tf.as_dtype(t.dtype).name) for t in tensors
    ]
    place = find_image_input(name, inputs, constants)
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:
        structure = getattr(model, "_nested_inputs", tensors)

    def run(image: Any) -> Any:
        if len(inputs) == 1:
            return model(image, training=False)
        values = build_inputs(image, inputs, place, constants)
        return model(tf.nest.pack_sequence_as(structure, values), training=False)

    names = {str(layer.name): type(layer).__name__ for layer in iterate_layers(model)}
    shape = image_shape(inputs[place])
    return Restored(kind, single_output(name, run), shape, names, loss, model)


def restore_saved_model(path: Path, constants: Mapping[str, float]) -> Restored:
    """Restore the serving signature of a SavedModel."""
    import tensorflow as tf

    validation.check_saved_model(path)
    name = path.name
    try:
        with suppress_warnings():
            owner = tf.saved_model.load(str(path))
    except (*LOAD_ERRORS, tf.errors.OpError) as error:
        first = " ".join(str(error).split())[:120]
        raise BadInput(
            f"{name} cannot be loaded ({first}): copy the whole folder, or save it again."
        ) from error
    signatures = dict(owner.signatures)
    if not signatures:
        raise BadInput(f"{name} has no serving signature: save it again with model.export().")
    wanted = [key for key in ("serving_default", "serve") if key in signatures]
    signature = signatures[wanted[0] if wanted else min(signatures)]
    specs = signature.structured_input_signature[1]
    inputs = [
        Input(key, None if spec.shape.rank is None else tuple(spec.shape), spec.dtype.name)
        for key, spec in sorted(specs.items())
    ]
    place = find_image_input(name, inputs, constants)
    shape = inputs[place].shape
    if shape and shape[0] not in (None, 1):
        raise BadInput(
            f"{name} takes {shape[0]} images at once: export it with a batch size of None or 1."
        )

    def run(image: Any) -> Any:
        values = build_inputs(image, inputs, place, constants)
        keys = [item.name for item in inputs]
        if shape and shape[0] == 1 and image.shape[0] != 1:
            rows = [[v[i : i + 1] for v in values] for i in range(image.shape[0])]
            answers = [signature(**dict(zip(keys, row, strict=True))) for row in rows]
            return {key: tf.concat([a[key] for a in answers], 0) for key in answers[0]}
        return signature(**dict(zip(keys, values, strict=True)))

    size = image_shape(inputs[place])
    return Restored("SavedModel", single_output(name, run), size, {}, "", owner)


def single_output(name: str, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap *run* to return its only output; several outputs raise BadInput."""
    import tensorflow as tf

    def one(image: Any) -> Any:
        outputs = tf.nest.flatten(run(image))
        if len(outputs) != 1:
            raise BadInput(
                f"{name} has {len(outputs)} outputs: save a model with the output that has the "
                "probabilities of the classes: keras.Model(model.inputs, model.outputs[0])."
            )
        return outputs[0]

    return one


def loss_name(training: object) -> str:
    """Return the name of the compiled loss, in lower case without underscores."""
    loss = training.get("loss") if isinstance(training, dict) else None
    if isinstance(loss, dict):
        inner = loss.get("config")
        loss = (inner.get("name") if isinstance(inner, dict) else inner) or loss.get("class_name")
    return loss.replace("_", "").lower() if isinstance(loss, str) else ""


def iterate_layers(model: Any) -> Iterator[Any]:
    """Yield a model and all its layers, including those of nested models."""
    yield model
    for layer in getattr(model, "layers", ()):
        yield from iterate_layers(layer)


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress warnings of Keras that are only relevant for training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
