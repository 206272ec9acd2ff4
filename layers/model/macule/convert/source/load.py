"""A user's own model, whatever wrote it, as one thing with known input and output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import ConversionError
from macule.convert.graph import frozen_graph, gradcam, inspection, outputs
from macule.convert.source import file_format, output_check, restore, tflite

# The size at which a model of free input size is looked at; all known backbones take it.
DEFAULT_PX = 224
LOSSES_OF_NUMBERS = ("mse", "mae", "meansquared", "meanabsolute", "huber", "logcosh", "mape")
BATCH = 16


class Source(NamedTuple):
    """A loaded model and what was found out about it."""

    kind: str
    model: Any
    height: int | None
    width: int | None
    channels: int
    classes: int
    output: str
    scaling_layers: tuple[str, ...]
    takes_raw_pixels: bool
    backbone: str | None
    size_mb: float


class Model(NamedTuple):
    """What `Source.model` holds of a Keras model or SavedModel.

    `graphs` has the frozen graph of each image size that was asked for.
    """

    name: str
    restored: restore.Restored
    output: inspection.Output
    graphs: dict[tuple[int, int], frozen_graph.FrozenGraph]


def load(path: str | Path, constants: Mapping[str, float] = {}) -> Source:
    """Load a model that others made; none of its code is run.

    Args:
      path: a `.keras`, `.h5` or `.tflite` file, or the folder of a SavedModel.
      constants: values for the inputs that are not the image, by name.

    Raises: ConversionError.
    """
    path = Path(path)
    kind = file_format.detect_format(path)
    if kind == "tflite":
        return describe_tflite(tflite.read_tflite(path), constants)
    reader = {
        "zip": restore.restore_archive,
        "h5": restore.restore_h5,
        "SavedModel": restore.restore_saved_model,
    }[kind]
    return inspect_model(path.name, reader(path, constants))


def describe_tflite(file: tflite.TFLiteModel, constants: Mapping[str, float]) -> Source:
    """Describe a `.tflite`; its graph is not taken apart."""
    if constants:
        raise ConversionError(
            f"{file.name} is a .tflite, whose inputs cannot be held constant: convert the model it "
            "was made from."
        )
    if file.output == "logits" and file.units > 1:
        height, width, channels = file.shape
        drawn = draw_samples(channels, False, 4, height, width)
        # an int8 softmax comes in steps of 1/256
        if output_check.is_distribution(tflite.run_model(file, drawn), 0.02):
            file = file._replace(output="softmax")
    classes = output_check.count_classes(
        file.name, file.output.replace("logits", "linear"), file.units, ""
    )
    height, width, channels = file.shape
    source = Source(
        "tflite",
        file,
        height,
        width,
        channels,
        classes,
        file.output,
        (),
        False,
        None,
        file.weights_mb,
    )
    return check_predictions(source)


def inspect_model(name: str, restored: restore.Restored) -> Source:
    """Freeze a restored model once and read its graph."""
    height, width, channels = restored.shape
    size = (height or width or DEFAULT_PX, width or height or DEFAULT_PX)
    frozen = freeze(name, restored, size)
    loaded = frozen_graph.load_graph(frozen)
    tensor = loaded.output
    if tensor.shape.rank is None or not inspection.is_row(tensor) or tensor.shape.rank < 2:
        shape = "x".join(str(part) for part in tensor.shape[1:]) if tensor.shape.rank else "?"
        raise ConversionError(
            f"{name} answers an image with {shape} numbers, not with one row of probabilities: "
            "give a classifier."
        )
    output_check.check_weights(name, loaded)
    found = inspection.find_output(loaded)
    model = Model(name, restored, found, {size: frozen})
    if found.kind not in ("softmax", "sigmoid") and found.units > 1:
        # a softmax may be written as exp and division; then the numbers tell
        drawn = draw_samples(restored.shape[2], False, 4, *size)
        if output_check.is_distribution(run_raw(model, drawn)):
            found = found._replace(kind="softmax", logits=None)
            model = model._replace(output=found)
    classes = output_check.count_classes(name, found.kind, found.units, restored.loss)
    preprocessing = inspection.find_preprocessing(loaded, restored.names)
    scopes = set(restored.names) or {
        part for operation in loaded.graph.get_operations() for part in operation.name.split("/")
    }
    source = Source(
        restored.kind,
        model,
        height,
        width,
        channels,
        classes,
        {"linear": "logits", "sigmoid": "sigmoid"}.get(found.kind, "softmax"),
        preprocessing.layers,
        preprocessing.takes_raw_pixels,
        inspection.detect_backbone(scopes),
        round(frozen_graph.weight_bytes(loaded) / 2**20, 3),
    )
    return check_predictions(source)


def freeze(
    name: str, restored: restore.Restored, size: tuple[int, int]
) -> frozen_graph.FrozenGraph:
    """Freeze a model at an image size that it takes by itself."""
    try:
        with restore.suppress_warnings():
            return frozen_graph.freeze(restored.run, (*size, restored.shape[2]))
    except ConversionError:
        raise
    except restore.LOAD_ERRORS as error:
        first = " ".join(str(error).split())[:120]
        raise ConversionError(
            f"{name} cannot be run on an image of {size[0]} x {size[1]} px ({first}): save it "
            "again where it works, with model.export()."
        ) from error


def check_predictions(source: Source) -> Source:
    """Give *source* back if it answers two drawn images with distributions.

    Raises: ConversionError.
    """
    output_check.check_distributions(
        source.model.name, predict(source, sample_images(source, 2, *input_size(source)))
    )
    return source


def input_size(source: Source) -> tuple[int, int]:
    """Height and width that the model takes, or one that it can."""
    return source.height or source.width or DEFAULT_PX, source.width or source.height or DEFAULT_PX


def sample_images(source: Source, count: int, height: int, width: int) -> NDArray[np.float32]:
    """Draw images (count, h, w, c) of soft blobs in the range that the model seems to take."""
    return draw_samples(source.channels, source.takes_raw_pixels, count, height, width)


def draw_samples(
    channels: int, takes_raw_pixels: bool, count: int, height: int, width: int
) -> NDArray[np.float32]:
    """Draw images of 0 to 255 where *scales*, else every other one of 0 to 1 and of -1 to 1."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 1, (count, -(-height // 8), -(-width // 8), channels))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    images = np.clip(images + random.normal(0, 0.05, images.shape), 0, 1)
    if takes_raw_pixels:
        return np.asarray(images * 255, np.float32)
    images[::2] = images[::2] * 2 - 1
    return np.asarray(images, np.float32)


def predict(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ask the original framework.

    Args:
      images: (n, h, w, c) float32, in the range that the model itself takes. At another size than
        the model's fixed one, TensorFlow runs the model's graph, rebuilt for that size.

    Returns: probabilities (n, classes) float32; [1 - p, p] for one sigmoid.
    Raises: ConversionError where the model cannot take that size.
    """
    if source.kind == "tflite":
        return output_check.to_probabilities(
            tflite.run_model(source.model, images), source.model.output
        )
    height, width = images.shape[1:3]
    if source.height not in (None, height) or source.width not in (None, width):
        return predict_resized(source, images)
    return output_check.to_probabilities(run_raw(source.model, images), source.model.output.kind)


def run_raw(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs (n, units) of the original framework, as they are."""
    rows = []
    with restore.suppress_warnings():
        for start in range(0, len(images), BATCH):
            answer = np.asarray(model.restored.run(to_tensor(images[start : start + BATCH])))
            rows.append(answer.reshape(len(answer), -1).astype(np.float32))
    return np.concatenate(rows)


def to_tensor(images: NDArray[np.float32]) -> Any:
    """Hand images to TensorFlow."""
    import tensorflow as tf

    return tf.constant(images, tf.float32)


def predict_resized(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ask the graph, rebuilt for these images' size."""
    frozen = graph_at(source, images.shape[1], images.shape[2])
    loaded = frozen_graph.load_graph(frozen)
    rows = [loaded.session.run(loaded.output, {loaded.image: image[None]}) for image in images]
    answer = np.stack([row.reshape(-1) for row in rows]).astype(np.float32)
    return output_check.to_probabilities(answer, source.model.output.kind)


def graph_at(source: Source, height: int, width: int) -> frozen_graph.FrozenGraph:
    """The model's frozen graph for an image size.

    Raises: ConversionError where the model has one size only.
    """
    model: Model = source.model
    wanted = (height, width)
    if wanted not in model.graphs:
        native = source.height in (None, height) and source.width in (None, width)
        if native:
            model.graphs[wanted] = freeze(model.name, model.restored, wanted)
        else:
            model.graphs[wanted] = rebuild_at(source, wanted)
    return model.graphs[wanted]


def rebuild_at(source: Source, wanted: tuple[int, int]) -> frozen_graph.FrozenGraph:
    """Give a model of fixed size another one; convolutions and global pooling allow it."""
    frozen = next(iter(source.model.graphs.values()))
    own = f"{frozen.shape[0]} x {frozen.shape[1]}"
    impossible = ConversionError(
        f"{source.model.name} takes images of {own} px alone, as its layers have that size built "
        f"in: convert it without another side."
    )
    try:
        changed = frozen_graph.resize(frozen, (*wanted, source.channels))
    except ValueError as error:
        raise impossible from error
    shape = frozen_graph.load_graph(changed).output.shape
    if shape.num_elements() != source.model.output.units:
        raise impossible
    return changed


def gradient_maps(
    source: Source, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Take Grad-CAM of the original model by a GradientTape, one label an image.

    Returns: (n, fh, fw) float32 before its ReLU, in the units of the exported `cams`; None where
      the model has no head that is known.
    """
    if source.kind == "tflite":
        return None
    plan = outputs.make_plan(
        graph_at(source, images.shape[1], images.shape[2]), has_opaque_softmax(source)
    )
    if plan.head is None:
        return None
    single = plan.output.units == 1
    units = np.zeros_like(labels) if single else labels
    names = (plan.head.features.name, plan.logits.name)
    maps = gradcam.gradcam_maps(plan.frozen, *names, images, units)[0][:, 0]
    signs = np.where(labels == 0, -1, 1)[:, None, None] if single else 1
    return np.asarray(maps * signs, np.float32)


def has_opaque_softmax(source: Source) -> bool:
    """Tell whether the model's softmax is no single operator of its graph."""
    return source.model.output.logits is None
