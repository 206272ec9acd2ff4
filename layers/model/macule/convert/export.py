"""A classifier to a float LiteRT file: one signature, batch 1, logits and activation maps."""

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import ConversionError
from macule.convert.graph import cams, frozen_graph, gradcam, out_of_distribution
from macule.convert.graph.head import UnsupportedHead
from macule.convert.graph.outputs import ExportPlan, fit_ood, make_plan
from macule.convert.source import load, output_check, restore, tflite
from macule.convert.source.load import Source

SIDES_PX = (8, 640)
TOLERANCE = 1e-3
PERTURBATIONS = 8  # of all pixels: an answer near a boundary does not fall over at every one
# BatchNormalization folds into the layer before it; all else must be in the file. Of the networks
# of keras.applications MobileNetV2 at alpha 0.35 keeps least, 95 %.
MIN_SIZE_RATIO = 0.8


class Exported(NamedTuple):
    """A LiteRT file and what is known of it.

    `content`: input (1, h, w, c) float32 in the model's own range; outputs `logits` (1, classes)
      and, where the head has a closed form, `cams` (1, fh, fw, classes), and `distance` (1,) from
      the known images where some were given: rank tells them apart.
    `output`: what the row holds: "logits"; "probabilities" or "sigmoid" of a wrapped `.tflite`.
    `cam`: `faithful`, and either `head`, `max_error` and `correlation` against a GradientTape
      Grad-CAM before its ReLU, or `why` there are no maps.
    `precision`: "fp32", or a wrapped file's own: "int8", "fp16", "dynamic".
    """

    content: bytes
    output: str
    cam: dict[str, Any]
    precision: str


def export(
    source: Source, height: int, width: int, known: NDArray[np.float32] | None = None
) -> Exported:
    """Make the LiteRT file of *source* for images of *height* x *width*, and check it.

    *known*: images (n, height, width, c) of the kind to come, in the range that the model takes.
    Raises: Refused.
    """
    low, high = SIDES_PX
    name = source.model.name
    if not (low <= height <= high and low <= width <= high):
        raise ConversionError(f"{name} at {height} x {width} px: give a --side of {low} to {high}.")
    if source.kind == "tflite":
        return wrap_tflite(source, height, width)
    plan = make_plan(load.graph_at(source, height, width), load.has_opaque_softmax(source))
    plan = plan if known is None else fit_ood(plan, known)
    images = load.sample_images(source, 4, height, width)
    try:
        content, outputs = write_and_check(source, plan, images)
    except (UnsupportedHead, ConversionError) as error:
        if plan.head is None:
            raise
        # maps are an addition: what LiteRT cannot do for them must not cost the model
        why = str(error) if isinstance(error, UnsupportedHead) else "LiteRT cannot compute its maps"
        plan = plan._replace(head=None, why=why)
        content, outputs = write_and_check(source, plan, images)
    cam: dict[str, Any] = {"faithful": False, "why": plan.why}
    if plan.head:
        cam = gradcam.compare(plan.frozen, plan.head, plan.logits.name, images, outputs[1])
    return Exported(content, "logits", cam, "fp32")


def write_and_check(
    source: Source, plan: ExportPlan, images: NDArray[np.float32]
) -> tuple[bytes, list[NDArray[np.float32]]]:
    """Write a plan and check the file; returns it with its outputs on *images*.

    Raises: Refused, Unknown.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        content = write_tflite(lambda image: build_serving_graph(plan, image), plan.frozen.shape)
    except (*restore.LOAD_ERRORS, ConverterError) as error:
        raise ConversionError(unsupported_message(source.model.name, error)) from error
    frozen_graph.collect_garbage()
    return content, check_equivalence(
        source, content, images, frozen_graph.weight_bytes(plan.loaded)
    )


def build_serving_graph(plan: ExportPlan, image: Any) -> dict[str, Any]:
    """Build the graph that is served: the model's own, its logits, and the maps beside them.

    Raises: Unknown.
    """
    import tensorflow as tf

    definition, wanted = plan.frozen.definition, plan.logits
    given = {f"{frozen_graph.IMAGE}:0": image}
    tap = [plan.ood[0]] if plan.ood else []
    if plan.head is None:
        row, *tapped = frozen_graph.import_subgraph(definition, given, [wanted.name, *tap], "")
        maps = None
    else:
        features, *tapped = frozen_graph.import_subgraph(
            definition, given, [plan.head.features.name, *tap], ""
        )
        row, maps = cams.build_head(plan.loaded, definition, plan.head, wanted, features)
    with tf.name_scope("head/"):
        row = tf.reshape(row, (1, plan.output.units))
        if plan.output.logits is None:
            row = tf.math.log(tf.maximum(row, 1e-7))
        if plan.output.units == 1:
            # softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)]; the first label's evidence is -z
            row = tf.pad(row, [[0, 0], [1, 0]])
            maps = None if maps is None else tf.concat([-maps, maps], 3)
        found = {"logits": row} | ({} if maps is None else {"cams": maps})
        if plan.ood:
            pooled = tf.reduce_mean(tapped[0], [1, 2])
            found["distance"] = out_of_distribution.build_score(plan.ood[1], pooled)
        return found


def write_tflite(
    serve: Callable[[Any], dict[str, Any]], shape: tuple[int, ...], owner: Any = None
) -> bytes:
    """Save *serve* as the only signature, batch fixed to 1, and convert it.

    *owner* holds the variables that *serve* reads: without it Keras 3 hides them from the
    converter, which then drops all weights in silence.
    """
    import tensorflow as tf

    module = tf.Module() if owner is None else owner
    wanted = tf.TensorSpec((1, *shape), tf.float32, frozen_graph.IMAGE)
    function = tf.function(serve, input_signature=[wanted], autograph=False)
    with tempfile.TemporaryDirectory() as folder, restore.suppress_warnings():
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        del function, module
        frozen_graph.collect_garbage()
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def unsupported_message(name: str, error: BaseException) -> str:
    """Say which operator LiteRT lacks."""
    import re

    found = sorted(set(re.findall(r"tf\.([A-Z]\w+)", str(error))))
    what = f"the operator {found[0]}" if found else f"a part ({' '.join(str(error).split())[:100]})"
    return (
        f"{name} has {what}, which LiteRT does not know: replace the layer that uses it, and save "
        "the model again."
    )


def check_equivalence(
    source: Source, content: bytes, images: NDArray[np.float32], weights: int
) -> list[NDArray[np.float32]]:
    """Compare the file with the model; returns its outputs on *images*, logits first.

    Raises: Refused where weights were lost or answers differ.
    """
    name = source.model.name
    if len(content) < MIN_SIZE_RATIO * weights:
        raise ConversionError(
            f"{name} lost weights in conversion ({len(content)} bytes of {weights}): report it "
            "with the model's summary()."
        )
    try:
        outputs = tflite.run_outputs(content, images)
    except (ValueError, RuntimeError) as error:
        raise ConversionError(unsupported_message(name, error)) from error
    expected = load.predict(source, images)
    change = np.abs(output_check.to_probabilities(outputs[0], "logits") - expected).max()
    if not change <= TOLERANCE and not change <= numerical_noise(source, images, expected):
        raise ConversionError(
            f"{name} answers differently after conversion (by {change:.3g}, allowed {TOLERANCE}): "
            "report it with the model's summary()."
        )
    return outputs


def numerical_noise(
    source: Source, images: NDArray[np.float32], expected: NDArray[np.float32]
) -> float:
    """Say how far the model's own answers move when each pixel does by a hundred-thousandth.

    A network that multiplies rounding errors, an untrained one say, cannot be converted closer than
    that; what it is worth is then the business of the gates.
    """
    random = np.random.default_rng(0)
    return max(
        float(np.abs(load.predict(source, images * noise) - expected).max())
        for noise in random.normal(1, 1e-5, (PERTURBATIONS, *images.shape)).astype(np.float32)
    )


def wrap_tflite(source: Source, height: int, width: int) -> Exported:
    """Take a `.tflite` as it is.

    Raises: Refused where another size is asked for.
    """
    file: tflite.TFLiteModel = source.model
    if (height, width) != file.shape[:2]:
        raise ConversionError(
            f"{file.name} takes {file.shape[0]} x {file.shape[1]} px, which is fixed in a .tflite: "
            "leave --side out, or convert the model it was made from."
        )
    output = {"softmax": "probabilities"}.get(file.output, file.output)
    why = "a .tflite is served as it is, and its gradients are not known"
    return Exported(
        tflite.add_signature(file.content), output, {"faithful": False, "why": why}, file.precision
    )


def export_with_head(
    body: Any,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    known: tuple[str, out_of_distribution.OODScorer] | None = None,
) -> bytes:
    """Export the Keras model *body* with a GAP + Dense head as a float32 `.tflite`.

    Args:
      body: Keras model from one image batch to feature maps (n, h, w, features).
      kernel: (features, classes), the Dense layer's weights.
      bias: (classes,).
      known: a layer of *body*, and the scorer of known images in its pooled output.

    Returns: the file. Input (1, side, side, 3) float32, scaled. Outputs `cams` (1, h, w, classes),
      `logits` (1, classes) and, with *known*, `distance` (1,), all float32.

    Pooling and a Dense layer commute: with cams = features * kernel at every place, logits =
    mean(cams) + bias, and each cam is the class's Grad-CAM before its ReLU. So the explanation
    costs one output and no second pass.
    """
    import keras
    import tensorflow as tf

    weights = tf.constant(np.asarray(kernel, np.float32)[None, None])
    shift = tf.constant(np.asarray(bias, np.float32))
    tapped = body
    if known:
        tapped = keras.Model(body.inputs, [body.output, body.get_layer(known[0]).output])

    def serve(image: Any) -> dict[str, Any]:
        seen = tapped(image, training=False)
        features = seen[0] if known else seen
        with tf.name_scope("head"):
            maps = tf.nn.conv2d(features, weights, 1, "VALID")
            found = {"cams": maps, "logits": tf.reduce_mean(maps, [1, 2]) + shift}
            if known:
                found["distance"] = out_of_distribution.build_score(
                    known[1], tf.reduce_mean(seen[1], [1, 2])
                )
            return found

    return write_tflite(serve, body.input_shape[1:], own_variables(body))


def own_variables(body: Any) -> Any:
    """Make the module that owns the body's variables."""
    import tensorflow as tf

    module = tf.Module()
    module.held = [variable.value for variable in body.variables]
    return module
