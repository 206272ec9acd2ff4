"""Export of a classifier to a float LiteRT file with logits, activation maps and OOD score."""

import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.graph import cams, frozen_graph, gradcam, out_of_distribution
from macule.convert.graph.head import UnsupportedHead
from macule.convert.graph.outputs import ExportPlan, fit_ood, make_plan
from macule.convert.source import load, output_check, restore, tflite
from macule.convert.source.load import Source

TOLERANCE = 1e-3
PERTURBATIONS = 8  # several, because one may not reach a decision boundary nearby
# BatchNormalization is folded into the layer before it; all other weights must be in the file. Of
# the networks of keras.applications, MobileNetV2 with alpha 0.35 keeps the smallest share, 95 %.
MIN_SIZE_RATIO = 0.8


class Exported(NamedTuple):
    """A LiteRT file and its properties.

    `content`: input (1, h, w, c) float32 in the model's own range. Outputs, distinguished by their
      rank: `logits` (1, classes); `cams` (1, fh, fw, classes) if the head has a closed form;
      `distance` (1,), the OOD score, if calibration images were given.
    `output`: content of the row: "logits"; for a wrapped `.tflite` also "probabilities" or
      "sigmoid".
    `cam`: `faithful`, and either `head`, `max_error` and `correlation` compared with Grad-CAM
      before its ReLU by a GradientTape, or `why`, the reason why there are no maps.
    `precision`: "fp32"; for a wrapped `.tflite` also "int8", "fp16" or "dynamic".
    """

    content: bytes
    output: str
    cam: dict[str, Any]
    precision: str


def export(
    source: Source, height: int, width: int, ood_images: NDArray[np.float32] | None = None
) -> Exported:
    """Export *source* for images of *height* x *width*, and verify the file.

    *ood_images*: in-distribution images (n, height, width, c) in the range of the model.
    Raises: BadInput.
    """
    if source.kind == "tflite":
        return wrap_tflite(source, height, width)
    plan = make_plan(load.graph_at(source, height, width), load.has_opaque_softmax(source))
    plan = plan if ood_images is None else fit_ood(plan, ood_images)
    images = load.sample_images(source, 4, height, width)
    try:
        content, outputs = write_and_check(source, plan, images)
    except (UnsupportedHead, BadInput) as error:
        if plan.head is None:
            raise
        # maps are optional: export the model without them
        is_known = isinstance(error, UnsupportedHead)
        why = str(error) if is_known else "LiteRT cannot compute its maps"
        plan = plan._replace(head=None, why=why)
        content, outputs = write_and_check(source, plan, images)
    cam: dict[str, Any] = {"faithful": False, "why": plan.why}
    if plan.head:
        cam = gradcam.compare(plan.frozen, plan.head, plan.logits.name, images, outputs[1])
    return Exported(content, "logits", cam, "fp32")


def write_and_check(
    source: Source, plan: ExportPlan, images: NDArray[np.float32]
) -> tuple[bytes, list[NDArray[np.float32]]]:
    """Write the file of a plan and verify it; returns it with its outputs for *images*.

    Raises: BadInput, UnsupportedHead.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        content = write_tflite(lambda image: build_serving_graph(plan, image), plan.frozen.shape)
    except (*restore.LOAD_ERRORS, ConverterError) as error:
        raise BadInput(unsupported_message(source.model.name, error)) from error
    frozen_graph.collect_garbage()
    weight_bytes = frozen_graph.weight_bytes(plan.loaded)
    return content, check_equivalence(source, content, images, weight_bytes)


def build_serving_graph(plan: ExportPlan, image: Any) -> dict[str, Any]:
    """Build the serving graph: logits, activation maps and OOD score.

    Raises: UnsupportedHead.
    """
    import tensorflow as tf

    definition, wanted = plan.frozen.definition, plan.logits
    given = {f"{frozen_graph.IMAGE}:0": image}
    tap = [plan.ood[0]] if plan.ood else []
    end = plan.head.features if plan.head else wanted
    row, *tapped = frozen_graph.import_subgraph(definition, given, [end.name, *tap], "")
    maps = None
    if plan.head:
        row, maps = cams.build_head(plan.loaded, definition, plan.head, wanted, row)
    with tf.name_scope("head/"):
        row = tf.reshape(row, (1, plan.output.units))
        if plan.output.logits is None:
            row = tf.math.log(tf.maximum(row, 1e-7))
        if plan.output.units == 1:
            # softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)]; the logit of the first label is -z
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
    """Save *serve* as the only signature, with batch size 1, and convert it.

    *owner* holds the variables that *serve* reads. Without it, Keras 3 hides them from the
    converter, which then drops all weights without an error.
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
    """Return the error message for an operator that LiteRT does not support."""
    found = sorted(set(re.findall(r"tf\.([A-Z]\w+)", str(error))))
    what = f"the operator {found[0]}" if found else f"a part ({' '.join(str(error).split())[:100]})"
    return (
        f"{name} has {what}, which LiteRT does not support: replace the layer that uses it, and "
        "save the model again."
    )


def check_equivalence(
    source: Source, content: bytes, images: NDArray[np.float32], weight_bytes: int
) -> list[NDArray[np.float32]]:
    """Compare the file with the model; returns its outputs for *images*, logits first.

    Raises: BadInput if weights were lost or the outputs differ.
    """
    name = source.model.name
    if len(content) < MIN_SIZE_RATIO * weight_bytes:
        raise BadInput(
            f"{name} lost weights in conversion ({len(content)} bytes of {weight_bytes}): "
            "report it with the model's summary()."
        )
    try:
        outputs = tflite.run_outputs(content, images)
    except (ValueError, RuntimeError) as error:
        raise BadInput(unsupported_message(name, error)) from error
    expected = load.predict(source, images)
    change = np.abs(output_check.to_probabilities(outputs[0], "logits") - expected).max()
    if not change <= TOLERANCE and not change <= numerical_noise(source, images, expected):
        raise BadInput(
            f"{name} gives different outputs after conversion (by {change:.3g}, "
            f"allowed {TOLERANCE}): report it with the model's summary()."
        )
    return outputs


def numerical_noise(
    source: Source, images: NDArray[np.float32], expected: NDArray[np.float32]
) -> float:
    """Return the largest change of the model's output for relative pixel noise of 1e-5.

    Some networks, such as untrained ones, amplify rounding errors, so a conversion cannot be more
    exact than this. The gates decide later whether such a model is good enough.
    """
    random = np.random.default_rng(0)
    return max(
        float(np.abs(load.predict(source, images * noise) - expected).max())
        for noise in random.normal(1, 1e-5, (PERTURBATIONS, *images.shape)).astype(np.float32)
    )


def wrap_tflite(source: Source, height: int, width: int) -> Exported:
    """Use a `.tflite` unchanged.

    Raises: BadInput if the size differs from that of the file.
    """
    file: tflite.TFLiteModel = source.model
    if (height, width) != file.shape[:2]:
        raise BadInput(
            f"{file.name} takes {file.shape[0]} x {file.shape[1]} px, and a .tflite has a fixed "
            "size: omit --side, or convert the original model."
        )
    output = {"softmax": "probabilities"}.get(file.output, file.output)
    reason = "a .tflite is used unchanged, and its gradients are not available"
    cam = {"faithful": False, "why": reason}
    return Exported(tflite.add_signature(file.content), output, cam, file.precision)


def export_with_head(
    body: Any,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    ood: tuple[str, Callable[[Any], Any]] | None = None,
) -> bytes:
    """Export the Keras model *body* with a GAP + Dense head as a float32 `.tflite`.

    Args:
      body: Keras model from one image batch to feature maps (n, h, w, features).
      kernel: (features, classes), the Dense layer's weights.
      bias: (classes,).
      ood: a layer of *body*, and a function that builds the scores (1,) or (2,) of its pooled
        output (1, d).

    Returns: the file. Input (1, side, side, 3) float32, scaled. Outputs `cams` (1, h, w, classes),
      `logits` (1, classes) and, with *ood*, `distance` (1,) or (2,), all float32.

    Pooling and a Dense layer commute: with cams = features * kernel at every position, logits =
    mean(cams) + bias, and each cam is the Grad-CAM of its class before the ReLU. The explanation
    is one additional output and needs no second pass.
    """
    import keras
    import tensorflow as tf

    weights = tf.constant(np.asarray(kernel, np.float32)[None, None])
    shift = tf.constant(np.asarray(bias, np.float32))
    wanted = [body.output, body.get_layer(ood[0]).output] if ood else body.output
    # the name is part of the file: Keras's own would count the models of the process
    model = keras.Model(body.inputs, wanted, name="body")

    def serve(image: Any) -> dict[str, Any]:
        outputs = model(image, training=False)
        features = outputs[0] if ood else outputs
        with tf.name_scope("head"):
            maps = tf.nn.conv2d(features, weights, 1, "VALID")
            found = {"cams": maps, "logits": tf.reduce_mean(maps, [1, 2]) + shift}
            if ood:
                pooled = tf.reduce_mean(outputs[1], [1, 2])
                found["distance"] = ood[1](pooled)
            return found

    owner = tf.Module()
    owner.variables_of_body = [variable.value for variable in body.variables]
    return write_tflite(serve, body.input_shape[1:], owner)
