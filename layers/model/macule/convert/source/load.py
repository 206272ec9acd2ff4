"""Load a model from Keras, SavedModel or LiteRT, with a known input and output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.graph import frozen_graph, gradcam, inspection, outputs
from macule.convert.source import file_format, output_check, restore, tflite

# Used to inspect models that accept any input size; all known backbones accept it.
DEFAULT_PX = 224
BATCH_SIZE = 16


class Source(NamedTuple):
    """A loaded model and its properties."""

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

    def accepts(self, height: int, width: int) -> bool:
        """Return whether the model takes images of this size without a change."""
        return self.height in (None, height) and self.width in (None, width)


class Model(NamedTuple):
    """`Source.model` of a Keras model or SavedModel.

    `graphs` are the frozen graphs by image size.
    """

    name: str
    restored: restore.Restored
    output: inspection.Output
    graphs: dict[tuple[int, int], frozen_graph.FrozenGraph]


def load(path: str | Path, constants: Mapping[str, float] = {}) -> Source:
    """Load an untrusted model, without running its code.

    Args:
      path: a `.keras`, `.h5` or `.tflite` file, or the folder of a SavedModel.
      constants: values for the inputs that are not the image, by name.

    Raises: BadInput.
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
    """Inspect the inputs and outputs of a `.tflite`."""
    if constants:
        raise BadInput(
            f"{file.name} is a .tflite, whose inputs cannot be constants: convert the original "
            "model."
        )
    if file.output == "logits" and file.units > 1:
        samples = draw_samples(*file.shape, 4)
        # an int8 softmax has steps of 1/256
        if output_check.is_distribution(tflite.run_model(file, samples), 0.02):
            file = file._replace(output="softmax")
    kind = file.output.replace("logits", "linear")
    classes = output_check.count_classes(file.name, kind, file.units, "")
    source = Source(
        "tflite", file, *file.shape, classes, file.output, (), False, None, file.weights_mb
    )
    return check_predictions(source)


def inspect_model(name: str, restored: restore.Restored) -> Source:
    """Freeze a restored model and inspect its graph."""
    size = supported_size(*restored.shape[:2])
    frozen = freeze(name, restored, size)
    loaded = frozen_graph.load_graph(frozen)
    tensor = loaded.output
    if tensor.shape.rank is None or not inspection.is_row(tensor) or tensor.shape.rank < 2:
        shape = "x".join(str(part) for part in tensor.shape[1:]) if tensor.shape.rank else "?"
        raise BadInput(
            f"{name} returns {shape} numbers per image, not one row of probabilities: use a "
            "classifier."
        )
    output_check.check_weights(name, loaded)
    found = inspection.find_output(loaded)
    model = Model(name, restored, found, {size: frozen})
    if found.kind not in ("softmax", "sigmoid") and found.units > 1:
        # detect a softmax written as exp and division by its values
        samples = draw_samples(*size, restored.shape[2], 4)
        if output_check.is_distribution(run_raw(model, samples)):
            found = found._replace(kind="softmax", logits=None)
            model = model._replace(output=found)
    classes = output_check.count_classes(name, found.kind, found.units, restored.loss)
    preprocessing = inspection.find_preprocessing(loaded, restored.names)
    scopes = set(restored.names) or {
        part for operation in loaded.graph.get_operations() for part in operation.name.split("/")
    }
    output = {"linear": "logits", "sigmoid": "sigmoid"}.get(found.kind, "softmax")
    backbone = inspection.detect_backbone(scopes)
    size_mb = round(frozen_graph.weight_bytes(loaded) / 2**20, 3)
    source = Source(
        restored.kind, model, *restored.shape, classes, output, *preprocessing, backbone, size_mb
    )
    return check_predictions(source)


def freeze(
    name: str, restored: restore.Restored, size: tuple[int, int]
) -> frozen_graph.FrozenGraph:
    """Freeze a model at an image size that it accepts."""
    try:
        with restore.suppress_warnings():
            return frozen_graph.freeze(restored.run, (*size, restored.shape[2]))
    except BadInput:
        raise
    except restore.LOAD_ERRORS as error:
        first = " ".join(str(error).split())[:120]
        raise BadInput(
            f"{name} cannot be run on an image of {size[0]} x {size[1]} px ({first}): "
            "save it again with model.export(), where it works."
        ) from error


def check_predictions(source: Source) -> Source:
    """Return *source* if its predictions for two generated images are probabilities.

    Raises: BadInput.
    """
    images = sample_images(source, 2, *supported_size(source.height, source.width))
    output_check.check_distributions(source.model.name, predict(source, images))
    return source


def supported_size(height: int | None, width: int | None) -> tuple[int, int]:
    """Return the height and width of a model's input; None stands for any size."""
    return height or width or DEFAULT_PX, width or height or DEFAULT_PX


def sample_images(source: Source, count: int, height: int, width: int) -> NDArray[np.float32]:
    """Generate smooth images (count, h, w, c) in the likely range of the model."""
    return draw_samples(height, width, source.channels, count, source.takes_raw_pixels)


def draw_samples(
    height: int, width: int, channels: int, count: int, takes_raw_pixels: bool = False
) -> NDArray[np.float32]:
    """Generate images of 0 to 255, or alternately of -1 to 1 and of 0 to 1."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 1, (count, -(-height // 8), -(-width // 8), channels))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    images = np.clip(images + random.normal(0, 0.05, images.shape), 0, 1)
    if takes_raw_pixels:
        return np.asarray(images * 255, np.float32)
    images[::2] = images[::2] * 2 - 1
    return np.asarray(images, np.float32)


def predict(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predict with the original framework.

    Args:
      images: (n, h, w, c) float32, in the range of the model. For a size that differs from the
        model's fixed size, TensorFlow runs the graph, rebuilt for that size.

    Returns: probabilities (n, classes) float32; [1 - p, p] for one sigmoid.
    Raises: BadInput if the model does not support the size.
    """
    if source.kind == "tflite":
        answer = tflite.run_model(source.model, images)
        return output_check.to_probabilities(answer, source.model.output)
    is_native = source.accepts(*images.shape[1:3])
    answer = run_raw(source.model, images) if is_native else run_resized(source, images)
    return output_check.to_probabilities(answer, source.model.output.kind)


def run_raw(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the raw outputs (n, units) of the original framework."""
    import tensorflow as tf

    rows = []
    with restore.suppress_warnings():
        for start in range(0, len(images), BATCH_SIZE):
            batch = tf.constant(images[start : start + BATCH_SIZE], tf.float32)
            answer = np.asarray(model.restored.run(batch))
            rows.append(answer.reshape(len(answer), -1).astype(np.float32))
    return np.concatenate(rows)


def run_resized(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the raw outputs (n, units) of the graph, rebuilt for the size of the images."""
    loaded = frozen_graph.load_graph(graph_at(source, *images.shape[1:3]))
    rows = [loaded.session.run(loaded.output, {loaded.image: image[None]}) for image in images]
    return np.stack([row.reshape(-1) for row in rows]).astype(np.float32)


def graph_at(source: Source, height: int, width: int) -> frozen_graph.FrozenGraph:
    """Return the frozen graph of the model for an image size.

    Raises: BadInput if the model has a fixed size.
    """
    model: Model = source.model
    size_px = (height, width)
    if size_px not in model.graphs:
        model.graphs[size_px] = (
            freeze(model.name, model.restored, size_px)
            if source.accepts(height, width)
            else rebuild_at(source, size_px)
        )
    return model.graphs[size_px]


def rebuild_at(source: Source, size_px: tuple[int, int]) -> frozen_graph.FrozenGraph:
    """Change the fixed size of a model; possible for convolutions and global pooling."""
    frozen = next(iter(source.model.graphs.values()))
    try:
        changed = frozen_graph.resize(frozen, (*size_px, source.channels))
        shape = frozen_graph.load_graph(changed).output.shape
        if shape.num_elements() == source.model.output.units:
            return changed
        cause = None
    except ValueError as error:
        cause = error
    raise BadInput(
        f"{source.model.name} takes images of {frozen.shape[0]} x {frozen.shape[1]} px only, "
        "because its layers have a fixed size: convert it without --side."
    ) from cause


def gradient_maps(
    source: Source, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Compute Grad-CAM of the original model by a GradientTape, for one label per image.

    Returns: (n, fh, fw) float32 before its ReLU, in the units of the exported `cams`; None if the
      head is not supported.
    """
    if source.kind == "tflite":
        return None
    plan = outputs.make_plan(graph_at(source, *images.shape[1:3]), has_opaque_softmax(source))
    if plan.head is None:
        return None
    single = plan.output.units == 1
    units = np.zeros_like(labels) if single else labels
    names = (plan.head.features.name, plan.logits.name)
    maps = gradcam.gradcam_maps(plan.frozen, *names, images, units)[0][:, 0]
    signs = np.where(labels == 0, -1, 1)[:, None, None] if single else 1
    return np.asarray(maps * signs, np.float32)


def has_opaque_softmax(source: Source) -> bool:
    """Return whether the softmax is not a single operator of the graph."""
    return source.model.output.logits is None
