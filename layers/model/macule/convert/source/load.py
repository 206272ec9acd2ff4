"""A user's own model, whatever wrote it, as one thing with known input and output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import Refused
from macule.convert.graph import frozen_graph, gradcam, inspection, outputs
from macule.convert.source import file_format, output_check, restore, tflite

# The size at which a model of free input size is looked at; all known backbones take it.
FREE_PX = 224
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
    inside: tuple[str, ...]
    scales: bool
    backbone: str | None
    size_mb: float


class Model(NamedTuple):
    """What `Source.model` holds of a Keras model or SavedModel.

    `graphs` has the frozen graph of each image size that was asked for.
    """

    name: str
    restored: restore.Restored
    output: inspection.Output
    graphs: dict[tuple[int, int], frozen_graph.Frozen]


def load(path: str | Path, constants: Mapping[str, float] = {}) -> Source:
    """Load a model that others made; none of its code is run.

    Args:
      path: a `.keras`, `.h5` or `.tflite` file, or the folder of a SavedModel.
      constants: values for the inputs that are not the image, by name.

    Raises: Refused.
    """
    path = Path(path)
    kind = file_format.kind(path)
    if kind == "tflite":
        return wrapped(tflite.restore(path), constants)
    reader = {"zip": restore.archive, "h5": restore.h5, "SavedModel": restore.folder}[kind]
    return examined(path.name, reader(path, constants))


def wrapped(file: tflite.Lite, constants: Mapping[str, float]) -> Source:
    """Describe a `.tflite`; its graph is not taken apart."""
    if constants:
        raise Refused(
            f"{file.name} is a .tflite, whose inputs cannot be held constant: convert the model it "
            "was made from."
        )
    if file.output == "logits" and file.units > 1:
        height, width, channels = file.shape
        drawn = samples_of(channels, False, 4, height, width)
        # an int8 softmax comes in steps of 1/256
        if output_check.is_distribution(tflite.answer(file, drawn), 0.02):
            file = file._replace(output="softmax")
    classes = output_check.count(file.name, file.output.replace("logits", "linear"), file.units, "")
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
    return agree(source)


def examined(name: str, restored: restore.Restored) -> Source:
    """Freeze a restored model once and read its graph."""
    height, width, channels = restored.shape
    size = (height or width or FREE_PX, width or height or FREE_PX)
    frozen = freeze(name, restored, size)
    opened = frozen_graph.read(frozen)
    tensor = opened.output
    if tensor.shape.rank is None or not inspection.flat(tensor) or tensor.shape.rank < 2:
        shape = "x".join(str(part) for part in tensor.shape[1:]) if tensor.shape.rank else "?"
        raise Refused(
            f"{name} answers an image with {shape} numbers, not with one row of probabilities: "
            "give a classifier."
        )
    output_check.numbers(name, opened)
    found = inspection.output(opened)
    model = Model(name, restored, found, {size: frozen})
    if found.kind not in ("softmax", "sigmoid") and found.units > 1:
        # a softmax may be written as exp and division; then the numbers tell
        drawn = samples_of(restored.shape[2], False, 4, *size)
        if output_check.is_distribution(raw(model, drawn)):
            found = found._replace(kind="softmax", logits=None)
            model = model._replace(output=found)
    classes = output_check.count(name, found.kind, found.units, restored.loss)
    door = inspection.door(opened, restored.names)
    scopes = set(restored.names) or {
        part for operation in opened.graph.get_operations() for part in operation.name.split("/")
    }
    source = Source(
        restored.kind,
        model,
        height,
        width,
        channels,
        classes,
        {"linear": "logits", "sigmoid": "sigmoid"}.get(found.kind, "softmax"),
        door.inside,
        door.scales,
        inspection.backbone(scopes),
        round(frozen_graph.bytes_of(opened) / 2**20, 3),
    )
    return agree(source)


def freeze(name: str, restored: restore.Restored, size: tuple[int, int]) -> frozen_graph.Frozen:
    """Freeze a model at an image size that it takes by itself."""
    try:
        with restore.quiet():
            return frozen_graph.freeze(restored.run, (*size, restored.shape[2]))
    except Refused:
        raise
    except restore.BROKEN as error:
        first = " ".join(str(error).split())[:120]
        raise Refused(
            f"{name} cannot be run on an image of {size[0]} x {size[1]} px ({first}): save it "
            "again where it works, with model.export()."
        ) from error


def agree(source: Source) -> Source:
    """Give *source* back if it answers two drawn images with distributions.

    Raises: Refused.
    """
    output_check.sums(source.model.name, predict(source, samples(source, 2, *size_of(source))))
    return source


def size_of(source: Source) -> tuple[int, int]:
    """Height and width that the model takes, or one that it can."""
    return source.height or source.width or FREE_PX, source.width or source.height or FREE_PX


def samples(source: Source, count: int, height: int, width: int) -> NDArray[np.float32]:
    """Draw images (count, h, w, c) of soft blobs in the range that the model seems to take."""
    return samples_of(source.channels, source.scales, count, height, width)


def samples_of(
    channels: int, scales: bool, count: int, height: int, width: int
) -> NDArray[np.float32]:
    """Draw images of 0 to 255 where *scales*, else every other one of 0 to 1 and of -1 to 1."""
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 1, (count, -(-height // 8), -(-width // 8), channels))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    images = np.clip(images + random.normal(0, 0.05, images.shape), 0, 1)
    if scales:
        return np.asarray(images * 255, np.float32)
    images[::2] = images[::2] * 2 - 1
    return np.asarray(images, np.float32)


def predict(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ask the original framework.

    Args:
      images: (n, h, w, c) float32, in the range that the model itself takes. At another size than
        the model's fixed one, TensorFlow runs the model's graph, rebuilt for that size.

    Returns: probabilities (n, classes) float32; [1 - p, p] for one sigmoid.
    Raises: Refused where the model cannot take that size.
    """
    if source.kind == "tflite":
        return output_check.distribution(tflite.answer(source.model, images), source.model.output)
    height, width = images.shape[1:3]
    if source.height not in (None, height) or source.width not in (None, width):
        return resized(source, images)
    return output_check.distribution(raw(source.model, images), source.model.output.kind)


def raw(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs (n, units) of the original framework, as they are."""
    rows = []
    with restore.quiet():
        for start in range(0, len(images), BATCH):
            answer = np.asarray(model.restored.run(tensor(images[start : start + BATCH])))
            rows.append(answer.reshape(len(answer), -1).astype(np.float32))
    return np.concatenate(rows)


def tensor(images: NDArray[np.float32]) -> Any:
    """Hand images to TensorFlow."""
    import tensorflow as tf

    return tf.constant(images, tf.float32)


def resized(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ask the graph, rebuilt for these images' size."""
    frozen = at(source, images.shape[1], images.shape[2])
    opened = frozen_graph.read(frozen)
    rows = [opened.session.run(opened.output, {opened.image: image[None]}) for image in images]
    answer = np.stack([row.reshape(-1) for row in rows]).astype(np.float32)
    return output_check.distribution(answer, source.model.output.kind)


def at(source: Source, height: int, width: int) -> frozen_graph.Frozen:
    """The model's frozen graph for an image size.

    Raises: Refused where the model has one size only.
    """
    model: Model = source.model
    wanted = (height, width)
    if wanted not in model.graphs:
        native = source.height in (None, height) and source.width in (None, width)
        if native:
            model.graphs[wanted] = freeze(model.name, model.restored, wanted)
        else:
            model.graphs[wanted] = rebuilt(source, wanted)
    return model.graphs[wanted]


def rebuilt(source: Source, wanted: tuple[int, int]) -> frozen_graph.Frozen:
    """Give a model of fixed size another one; convolutions and global pooling allow it."""
    frozen = next(iter(source.model.graphs.values()))
    own = f"{frozen.shape[0]} x {frozen.shape[1]}"
    impossible = Refused(
        f"{source.model.name} takes images of {own} px alone, as its layers have that size built "
        f"in: convert it without another side."
    )
    try:
        changed = frozen_graph.resize(frozen, (*wanted, source.channels))
    except ValueError as error:
        raise impossible from error
    shape = frozen_graph.read(changed).output.shape
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
    drawn = outputs.draw(at(source, images.shape[1], images.shape[2]), opaque(source))
    if drawn.head is None:
        return None
    single = drawn.answer.units == 1
    units = np.zeros_like(labels) if single else labels
    names = (drawn.head.features.name, drawn.logits.name)
    maps = gradcam.gradients(drawn.frozen, *names, images, units)[0][:, 0]
    signs = np.where(labels == 0, -1, 1)[:, None, None] if single else 1
    return np.asarray(maps * signs, np.float32)


def opaque(source: Source) -> bool:
    """Tell whether the model's softmax is no single operator of its graph."""
    return source.model.output.logits is None
