"""Small models like those of users, with weights that make their answers differ."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIDE_PX = 32
# TensorFlow does not quantize weights of under 1,024 numbers.
WIDE = 32


class Kind(NamedTuple):
    """A kind of model: how it is written, and its facts."""

    write: Callable[[Path], Path]
    kind: str
    output: str = "softmax"
    classes: int = 4
    channels: int = 3
    size: tuple[int | None, int | None] = (SIDE_PX, SIDE_PX)
    inside: tuple[str, ...] = ()
    scales: bool = False
    backbone: str | None = None
    head: str | None = "gap-dense"


def three() -> Any:
    """Return Keras 3."""
    import keras

    keras.utils.set_random_seed(4)
    return keras


def two() -> Any:
    """Return Keras 2, which tf-keras continues."""
    import tf_keras

    tf_keras.utils.set_random_seed(4)
    return tf_keras


def randomize(model: Any, low: float = -1, high: float = 1) -> Any:
    """Set weights whose signal neither vanishes nor explodes, and realistic statistics."""
    random = np.random.default_rng(9)
    for layer in each(model):
        arrays = []
        for variable in layer.weights if not getattr(layer, "layers", None) else ():
            shape, name = tuple(variable.shape), str(variable.name)
            if "seed" in name or len(shape) == 0:
                arrays.append(np.asarray(variable))
            elif len(shape) >= 2:
                fan = max(int(np.prod(shape[:-1])), 1)
                if "depthwise" in name or type(layer).__name__ == "DepthwiseConv2D":
                    fan = int(np.prod(shape[:2]))
                arrays.append(random.normal(0, (2 / fan) ** 0.5, shape))
            elif "var" in name:
                arrays.append(random.uniform(0.5, 1.5, shape))
            else:
                centre = 1.0 if "gamma" in name else 0.0
                arrays.append(random.normal(centre, 0.1, shape))
        if arrays and type(layer).__name__ != "Normalization":
            layer.set_weights(arrays)
    statistics(model, low, high, random)
    return model


def statistics(model: Any, low: float, high: float, random: np.random.Generator) -> None:
    """Update the BatchNormalization layers with random images, as training does."""
    norms = [layer for layer in each(model) if type(layer).__name__ == "BatchNormalization"]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.2
    shapes = [tuple(SIDE_PX * 2 if s is None else s for s in t.shape[1:]) for t in model.inputs]
    for _ in range(3):
        batch = [random.uniform(low, high, (8, *shape)).astype(np.float32) for shape in shapes]
        model(batch[0] if len(batch) == 1 else batch, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def each(model: Any) -> list[Any]:
    """Yield all layers, including those of nested models."""
    found = [model]
    for layer in getattr(model, "layers", ()):
        found += each(layer)
    return found


def trunk(k: Any, x: Any, channels: int = 12) -> Any:
    """Two convolutions with BatchNormalization, at a quarter of the size."""
    x = k.layers.Conv2D(8, 3, 2, "same")(x)
    x = k.layers.ReLU(6.0)(k.layers.BatchNormalization()(x))
    return k.layers.Conv2D(channels, 3, 2, "same", activation="relu")(x)


def plain(
    k: Any,
    head: Callable[[Any, Any], Any],
    shape: Any = (SIDE_PX, SIDE_PX, 3),
    channels: int = 12,
) -> Any:
    """The trunk with a head."""
    inputs = k.Input(shape)
    return randomize(k.Model(inputs, head(k, trunk(k, inputs, channels))))


def average(k: Any, x: Any) -> Any:
    """GAP, dropout, Dense with softmax."""
    x = k.layers.Dropout(0.2)(k.layers.GlobalAveragePooling2D()(x))
    return k.layers.Dense(4, "softmax")(x)


def logits(k: Any, x: Any) -> Any:
    """GAP and Dense without activation."""
    return k.layers.Dense(4)(k.layers.GlobalAveragePooling2D()(x))


def sigmoid(k: Any, x: Any) -> Any:
    """One sigmoid."""
    return k.layers.Dense(1, "sigmoid")(k.layers.GlobalAveragePooling2D()(x))


def deep(k: Any, x: Any) -> Any:
    """GAP, BatchNormalization, Dense, BatchNormalization, ReLU, Dense, Activation."""
    x = k.layers.BatchNormalization()(k.layers.GlobalAveragePooling2D()(x))
    x = k.layers.BatchNormalization()(k.layers.Dense(9)(x))
    x = k.layers.Dropout(0.5)(k.layers.Activation("relu")(x))
    return k.layers.Activation("softmax")(k.layers.Dense(4)(x))


def greatest(k: Any, x: Any) -> Any:
    """Global max pooling and two Dense layers."""
    x = k.layers.Dense(9, "relu")(k.layers.GlobalMaxPooling2D()(x))
    return k.layers.Dense(4, "softmax")(x)


def flat(k: Any, x: Any) -> Any:
    """Max pooling, Flatten and one Dense layer."""
    x = k.layers.Flatten()(k.layers.MaxPooling2D()(x))
    return k.layers.Dense(4, "softmax")(x)


def flat_deep(k: Any, x: Any) -> Any:
    """Flatten, BatchNormalization and two Dense layers."""
    x = k.layers.BatchNormalization()(k.layers.Flatten()(x))
    x = k.layers.Dropout(0.5)(k.layers.Dense(9, "relu")(x))
    return k.layers.Softmax()(k.layers.Dense(4)(x))


def both(k: Any, x: Any) -> Any:
    """Average and max pooling side by side, then a Dense layer with tanh."""
    pools = [k.layers.GlobalAveragePooling2D()(x), k.layers.GlobalMaxPooling2D()(x)]
    x = k.layers.Dense(9, "tanh")(k.layers.Concatenate()(pools))
    return k.layers.Dense(4, "softmax")(x)


def convolved(k: Any, x: Any) -> Any:
    """GAP that keeps its axes, a 1 x 1 convolution with swish, another one, Flatten."""
    x = k.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = k.layers.Conv2D(9, 1, activation="swish")(x)
    return k.layers.Softmax()(k.layers.Flatten()(k.layers.Conv2D(4, 1)(x)))


def attentive(k: Any, x: Any) -> Any:
    """A head that weights places, which has no closed form here."""
    weights = k.layers.Softmax(axis=1)(k.layers.Reshape((64, 1))(k.layers.Conv2D(1, 1)(x)))
    x = k.layers.Dot(axes=1)([weights, k.layers.Reshape((64, 12))(x)])
    return k.layers.Dense(4, "softmax")(k.layers.Reshape((12,))(x))


def nested(k: Any, body: Any = None) -> Any:
    """MobileNetV2, or *body*, nested in a Sequential, after augmentation and scaling."""
    body = body or k.applications.MobileNetV2((64, 64, 3), 0.35, include_top=False, weights=None)
    first = [k.layers.RandomFlip("horizontal"), k.layers.RandomRotation(0.1)]
    scaling = k.layers.Rescaling(1 / 127.5, -1)
    last = [k.layers.GlobalAveragePooling2D(), k.layers.Dropout(0.2)]
    model = k.Sequential([k.Input(body.input_shape[1:]), *first, scaling, body, *last])
    model.add(k.layers.Dense(4, "softmax"))
    return randomize(model, 0, 255)


def small(k: Any) -> Any:
    """The trunk as a model of its own, with MobileNetV2's name."""
    inputs = k.Input((SIDE_PX, SIDE_PX, 3))
    return k.Model(inputs, trunk(k, inputs), name="mobilenetv2_1.00_32")


def efficient(k: Any) -> Any:
    """EfficientNetB0 with its own scaling, and a head of logits."""
    body = k.applications.EfficientNetB0(False, None, input_shape=(64, 64, 3))
    x = k.layers.GlobalAveragePooling2D()(body.output)
    return randomize(k.Model(body.input, k.layers.Dense(4)(x)), 0, 255)


def residual(k: Any) -> Any:
    """A nested model named ResNet50 after arithmetic on the input: RGB to BGR, minus a mean."""
    inputs = k.Input((SIDE_PX, SIDE_PX, 3))
    x = k.applications.resnet50.preprocess_input(inputs)
    body_input = k.Input((SIDE_PX, SIDE_PX, 3))
    body = k.Model(body_input, trunk(k, body_input), name="resnet50")
    return randomize(k.Model(inputs, average(k, body(x))), 0, 255)


def arithmetic(k: Any) -> Any:
    """The trunk after x / 127.5 - 1 written as arithmetic."""
    inputs = k.Input((SIDE_PX, SIDE_PX, 3))
    return randomize(k.Model(inputs, average(k, trunk(k, inputs / 127.5 - 1.0))), 0, 255)


def third(k: Any) -> Any:
    """MobileNetV3Small with its top, a head of convolutions."""
    model = k.applications.MobileNetV3Small((64, 64, 3), 0.75, weights=None, classes=4)
    return randomize(model, 0, 255)


def resized(k: Any) -> Any:
    """Any input size, resized and normalised inside."""
    inputs = k.Input((None, None, 3))
    x = k.layers.Resizing(SIDE_PX, SIDE_PX)(inputs)
    x = k.layers.Rescaling(1 / 255)(x)
    scaling = {"mean": [0.485, 0.456, 0.406], "variance": [0.0524, 0.0502, 0.0506]}
    x = k.layers.Normalization(**scaling)(x)
    return randomize(k.Model(inputs, average(k, trunk(k, x))), 0, 255)


def mixed(k: Any) -> Any:
    """The trunk in mixed precision."""
    k.mixed_precision.set_global_policy("mixed_float16")
    try:
        return plain(k, average)
    finally:
        k.mixed_precision.set_global_policy("float32")


def underscored(k: Any) -> Any:
    """A layer whose name TensorFlow does not allow at a graph's root."""
    layers = [k.layers.Conv2D(8, 3, 2, activation="relu", name="_first")]
    layers += [k.layers.GlobalAveragePooling2D(), k.layers.Dense(4, "softmax", name="_last")]
    return randomize(k.Sequential([k.Input((SIDE_PX, SIDE_PX, 3)), *layers], name="_whole"))


def informed(k: Any) -> Any:
    """An image, an age and a one-hot sex."""
    image = k.Input((SIDE_PX, SIDE_PX, 3), name="image")
    age, sex = k.Input((1,), name="age"), k.Input((2,), name="sex")
    x = k.layers.GlobalAveragePooling2D()(trunk(k, image))
    x = k.layers.Concatenate()([x, k.layers.Dense(5, "relu")(age), sex])
    return randomize(k.Model([image, age, sex], k.layers.Dense(4, "softmax")(x)))


def teachable(k: Any) -> Any:
    """A Sequential of two Sequentials over MobileNetV2, with Teachable Machine's names."""
    body = k.applications.MobileNetV2((96, 96, 3), 0.35, include_top=False, weights=None)
    pool = k.layers.GlobalAveragePooling2D(name="global_average_pooling2d_GlobalAveragePooling2D1")
    features = k.Sequential([k.Model(body.input, body.output, name="model1"), pool])
    dense = k.layers.Dense(20, "relu", name="dense_Dense1")
    last = k.layers.Dense(4, "softmax", use_bias=False, name="dense_Dense2")
    head = k.Sequential([k.Input((1280,)), dense, last], name="sequential_3")
    return randomize(k.Sequential([features, head], name="sequential_4"))


def aged(path: Path, version: str) -> Path:
    """Rewrite an `.h5` as Keras 2.4 and TensorFlow.js wrote it: `groups` in depthwise layers."""

    def visit(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                visit(item)
        elif isinstance(part, dict):
            if part.get("class_name") == "DepthwiseConv2D":
                part["config"]["groups"] = 1
            for key in ("module", "registered_name", "build_config"):
                part.pop(key, None)
            for item in part.values():
                visit(item)

    import h5py

    with h5py.File(path, "r+") as file:
        document = json.loads(file.attrs["model_config"])
        visit(document)
        file.attrs["model_config"] = json.dumps(document).encode()
        file.attrs["keras_version"] = version.encode()
    return path


def saved(make: Callable[[], Any], suffix: str) -> Callable[[Path], Path]:
    """Write with `model.save`."""

    def write(folder: Path) -> Path:
        path = folder / f"model{suffix}"
        model = make()
        store_answers(model, folder)
        # Keras advises against `.h5`, which is needed here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.save(path, **({} if suffix else {"save_format": "tf"}))
        return path

    return write


def served(make: Callable[[], Any]) -> Callable[[Path], Path]:
    """Write with `model.export`."""

    def write(folder: Path) -> Path:
        model = make()
        store_answers(model, folder)
        model.export(str(folder / "model"), verbose=False)
        return folder / "model"

    return write


def store_answers(model: Any, folder: Path) -> None:
    """Store the model's own answers before it is saved."""
    shape = [SIDE_PX * 2 if size is None else size for size in model.inputs[0].shape[1:]]
    random = np.random.default_rng(6)
    images = random.uniform(-1, 1, (4, *shape)).astype(np.float32)
    images[2:] = (images[2:] + 1) * 127.5
    if len(model.inputs) == 1:
        np.savez(
            folder / "reference.npz",
            images=images,
            answer=np.asarray(model(images, training=False)),
        )


def lite(precision: str, head: Callable[[Any, Any], Any] = average) -> Callable[[Path], Path]:
    """Write with TensorFlow's own converter."""

    def write(folder: Path) -> Path:
        import tensorflow as tf

        model = plain(three(), head, (SIDE_PX, SIDE_PX, 3), WIDE)
        shape = (1, *model.inputs[0].shape[1:])
        module = tf.Module()
        module.held = [variable.value for variable in model.variables]
        module.serve = tf.function(
            lambda image: model(image, training=False),
            input_signature=[tf.TensorSpec(shape, tf.float32, "image")],
        )
        tf.saved_model.save(module, str(folder / "graph"), signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "graph"))
        random = np.random.default_rng(2)
        if precision != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            drawn = [[random.uniform(-1, 1, shape).astype(np.float32)] for _ in range(20)]
            converter.representative_dataset = lambda: iter(drawn)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        path = folder / "model.tflite"
        path.write_bytes(converter.convert())
        return path

    return write


RAW = ("Rescaling: x * 0.007843 - 1",)
ZOO = {
    "flat": Kind(saved(lambda: plain(three(), average), ".keras"), "Keras 3"),
    "logits": Kind(saved(lambda: plain(three(), logits), ".h5"), "Keras 3", "logits"),
    "sigmoid": Kind(saved(lambda: plain(three(), sigmoid), ".keras"), "Keras 3", "sigmoid", 2),
    "deep": Kind(
        saved(lambda: plain(three(), deep), ".keras"), "Keras 3", head="gap-dense-relu-dense"
    ),
    "greatest": Kind(
        saved(lambda: plain(three(), greatest), ".keras"), "Keras 3", head="gmp-dense-relu-dense"
    ),
    "flatten": Kind(
        saved(lambda: plain(three(), flat, (40, SIDE_PX, 1)), ".keras"),
        "Keras 3",
        channels=1,
        size=(40, SIDE_PX),
        head="flatten-dense",
    ),
    "flatten deep": Kind(
        saved(lambda: plain(three(), flat_deep), ".h5"), "Keras 3", head="flatten-dense-relu-dense"
    ),
    "two pools": Kind(
        saved(lambda: plain(three(), both), ".keras"), "Keras 3", head="gap-gmp-dense-tanh-dense"
    ),
    "convolved": Kind(
        saved(lambda: plain(three(), convolved), ".keras"),
        "Keras 3",
        head="gap-dense-swish-dense",
    ),
    "attentive": Kind(saved(lambda: plain(three(), attentive), ".keras"), "Keras 3", head=None),
    "nested": Kind(
        saved(lambda: nested(three()), ".keras"),
        "Keras 3",
        size=(64, 64),
        inside=RAW,
        scales=True,
        backbone="MobileNetV2",
    ),
    "efficient": Kind(
        saved(lambda: efficient(three()), ".h5"),
        "Keras 3",
        "logits",
        size=(64, 64),
        inside=("Rescaling: x * 0.003922",),
        scales=True,
        backbone="EfficientNetB0",
    ),
    "residual": Kind(
        saved(lambda: residual(three()), ".keras"),
        "Keras 3",
        inside=("Channels reversed: BGR", "Add: x - [103.9 116.8 123.7]"),
        scales=True,
        backbone="ResNet50",
    ),
    "arithmetic": Kind(
        saved(lambda: arithmetic(three()), ".keras"),
        "Keras 3",
        inside=("Divide: x * 0.007843 - 1",),
        scales=True,
    ),
    "third": Kind(
        saved(lambda: third(three()), ".keras"),
        "Keras 3",
        size=(64, 64),
        inside=RAW,
        scales=True,
        backbone="MobileNetV3Small",
        head="gap-dense-swish-dense",
    ),
    "resized": Kind(
        saved(lambda: resized(three()), ".keras"),
        "Keras 3",
        size=(None, None),
        inside=(
            "Resizing: 32 x 32",
            "Rescaling: x * 0.003922",
            "Normalization: x * [4.369 4.463 4.446] - [2.119 2.035 1.805]",
        ),
        scales=True,
    ),
    "free": Kind(
        saved(lambda: plain(three(), average, (None, None, 3)), ".keras"),
        "Keras 3",
        size=(None, None),
    ),
    "mixed": Kind(saved(lambda: mixed(three()), ".keras"), "Keras 3"),
    "underscored": Kind(saved(lambda: underscored(three()), ".keras"), "Keras 3"),
    "exported": Kind(
        served(lambda: plain(three(), deep)), "SavedModel", head="gap-dense-relu-dense"
    ),
    "old flat": Kind(saved(lambda: plain(two(), average), ".h5"), "Keras 2"),
    "old keras": Kind(saved(lambda: plain(two(), flat), ".keras"), "Keras 2", head="flatten-dense"),
    "old arithmetic": Kind(
        saved(lambda: arithmetic(two()), ".h5"),
        "Keras 2",
        inside=("Divide: x * 0.007843", "Subtract: x - 1"),
        scales=True,
    ),
    "old nested": Kind(
        saved(lambda: nested(two(), small(two())), ".h5"),
        "Keras 2",
        inside=RAW,
        scales=True,
        backbone="MobileNetV2",
    ),
    "old resized": Kind(
        saved(lambda: resized(two()), ".keras"),
        "Keras 2",
        size=(None, None),
        inside=(
            "Resizing: 32 x 32",
            "Rescaling: x * 0.003922",
            "Normalization: x * [4.369 4.463 4.446] - [2.119 2.035 1.805]",
        ),
        scales=True,
    ),
    "old mixed": Kind(saved(lambda: mixed(two()), ".h5"), "Keras 2"),
    "old folder": Kind(saved(lambda: plain(two(), sigmoid), ""), "SavedModel", "sigmoid", 2),
    "teachable": Kind(
        lambda folder: aged(saved(lambda: teachable(two()), ".h5")(folder), "2.4.0"),
        "Keras 2",
        size=(96, 96),
        backbone="teachable-machine",
        head="gap-dense-relu-dense",
    ),
    "lite": Kind(lite("fp32"), "tflite", head=None),
    "lite sigmoid": Kind(lite("fp32", sigmoid), "tflite", "sigmoid", 2, head=None),
    "lite int8": Kind(lite("int8"), "tflite", head=None),
    "lite fp16": Kind(lite("fp16"), "tflite", head=None),
    "lite dynamic": Kind(lite("dynamic"), "tflite", head=None),
}
