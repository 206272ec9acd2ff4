"""Grad-CAM of all classes inside the graph, for heads with a closed form.

With features f (h, w, k), pooled to p (k), Grad-CAM of class c is f @ J[:, c] / (h * w), where J is
the gradient of the logit with respect to p. This is a forward-mode derivative: the tangent f is
propagated through the operators of the head. Linear operators are applied at each position, and
activations are multiplied by their derivative at p. Max pooling and Flatten have the same form: the
gradients with respect to f add up to J, and to the sum of the Dense weights over all positions.
The maps are h * w times Grad-CAM before its ReLU, in units of the logit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph import head, inspection
from macule.convert.graph.frozen_graph import (
    IDENTITY_OPS,
    LoadedGraph,
    constant_value,
    depends_on_image,
    import_subgraph,
    skip_identities,
)
from macule.convert.graph.head import RESHAPE_OPS, Head, UnsupportedHead

MAX_FLOAT_HIDDEN_BYTES = 2**20
# scale, and scale * alpha of Klambauer et al. 2017, arXiv 1706.02515
SELU = (1.0507009873554805, 1.7580993408473766)


def build_head(
    loaded: LoadedGraph, definition: Any, pooled: Head, logits: Any, features: Any
) -> tuple[Any, Any]:
    """Build the head on *features* (1, h, w, k); returns the logits and their maps.

    Small layers are in the scope `head`, which `quantize.float_pattern` keeps in float. If all
    pooling is average pooling, the logits are pooled from the first tangent, so that the weights
    are in the file once. Hidden layers of more than MAX_FLOAT_HIDDEN_BYTES are in the scope `tail`,
    in the original order: int8 averaged after a Dense layer would lose most of its resolution.

    Raises: UnsupportedHead.
    """
    import tensorflow as tf

    steps, last = head.linear_stages(loaded, logits), last_dense_tensors(loaded, logits)
    hidden = sum(step.kernel.size for name, step in steps.items() if name not in last)
    if 4 * hidden <= MAX_FLOAT_HIDDEN_BYTES:
        last |= set(head.tensors_between(loaded, logits, {}))
    values: dict[str, Any] = {pooled.features.name: features}
    tangents: dict[str, Any] = {}
    for name, step in steps.items():
        weights = head.tangent_weights(step, pooled)
        with tf.name_scope(scope_of(name, last)):
            tangents[name] = features if weights is None else conv_1x1(features, weights)
    dense = all(step.kernel.ndim == 2 and name in last for name, step in steps.items())
    if set(pooled.pools) == {"gap"} and dense:
        values = {}
        for name, step in steps.items():
            shape = loaded.graph.get_tensor_by_name(name).shape
            with tf.name_scope(scope_of(name, last)):
                row = tf.reduce_mean(tangents[name], [1, 2]) + np.asarray(step.bias, np.float32)
                values[name] = tf.reshape(row, shape)
    names = head.tensors_between(loaded, logits, values)
    for part in ([n for n in names if n not in last], [n for n in names if n in last]):
        if part:
            imported = import_subgraph(definition, values, part, f"{scope_of(part[0], last)}own")
            values |= dict(zip(part, imported, strict=True))
    maps = propagate_tangent(loaded, logits, tangents, values, last)
    return values[skip_identities(logits).name], maps


def last_dense_tensors(loaded: LoadedGraph, logits: Any) -> set[str]:
    """Return the names of the tensors of the last Dense layer."""
    names = set()
    while True:
        names.add(logits.name)
        operation = logits.op
        moving = [source for source in operation.inputs if depends_on_image(loaded, source)]
        linear = operation.type in inspection.AFFINE_OPS | IDENTITY_OPS | RESHAPE_OPS
        if not linear or len(moving) != 1 or head.pooling_kind(logits):
            return names
        logits = moving[0]


def scope_of(name: str, last: set[str]) -> str:
    """Return the scope of a tensor; with the slash, TensorFlow does not add a suffix."""
    return "head/" if name in last else "tail/"


def conv_1x1(maps: Any, weights: NDArray[np.float32]) -> Any:
    """Apply *weights* (k, d) at each position of *maps* (1, h, w, k)."""
    import tensorflow as tf

    return tf.nn.conv2d(maps, tf.constant(weights[None, None]), 1, "VALID")


def propagate_tangent(
    loaded: LoadedGraph,
    tensor: Any,
    tangents: dict[str, Any],
    values: dict[str, Any],
    last: set[str],
) -> Any:
    """Propagate the maps through the head up to *tensor*.

    Args:
      tangents: computed tangents (1, h, w, d) by tensor name, including the linear stages.
      values: tensors of the new graph, by the same names.

    Raises: UnsupportedHead.
    """
    import tensorflow as tf

    tensor = skip_identities(tensor)
    if tensor.name in tangents:
        return tangents[tensor.name]
    parts = [
        propagate_tangent(loaded, source, tangents, values, last)
        if depends_on_image(loaded, source)
        else None
        for source in tensor.op.inputs
    ]

    def primal(source: Any) -> Any:
        if depends_on_image(loaded, source):
            shape = (1, 1, 1, source.shape.num_elements())
            return tf.reshape(values[skip_identities(source).name], shape)
        return tf.constant(np.asarray(constant_value(loaded, source), np.float32).ravel())

    with tf.name_scope(scope_of(tensor.name, last)):
        tangents[tensor.name] = operator_jvp(loaded, tensor.op, parts, primal)
    return tangents[tensor.name]


def operator_jvp(
    loaded: LoadedGraph, operation: Any, parts: list[Any], primal: Callable[[Any], Any]
) -> Any:
    """Return the derivative of an operator along *parts*, the tangents of its inputs.

    A tangent is None for a constant input. *primal* returns the value of an input, in a shape that
    broadcasts over the positions of a map.

    Raises: UnsupportedHead.
    """
    import tensorflow as tf

    kind, inputs = operation.type, operation.inputs
    moving = [part for part in parts if part is not None]
    if kind in RESHAPE_OPS and inspection.is_row(inputs[0]):
        return moving[0]
    if kind in ("MatMul", "Conv2D") and head.has_constant_weights(loaded, operation):
        return conv_1x1(moving[0], head.kernel_weights(loaded, operation))
    if kind == "FusedBatchNormV3":
        step = inspection.read_affine(loaded, operation, inputs[0])
        return moving[0] * np.asarray(step[0] if step else 1, np.float32)
    if kind == "Neg" or (kind == "Sub" and parts[0] is None):
        return -moving[0]
    if kind == "Sub" and len(moving) == 2:
        return moving[0] - moving[1]
    if kind in ("Add", "AddV2", "BiasAdd", "Sub"):
        return moving[0] if len(moving) == 1 else moving[0] + moving[1]
    if kind == "Mul":
        crossed = zip(parts, reversed(list(inputs)), strict=True)
        products = [part * primal(other) for part, other in crossed if part is not None]
        return products[0] if len(products) == 1 else products[0] + products[1]
    if kind == "RealDiv" and parts[1] is None:
        return moving[0] / primal(inputs[1])
    if kind == "ConcatV2":
        places = moving[0].shape[:3]
        sides = zip(parts, inputs[:-1], strict=False)
        rows = [tf.zeros((*places, s.shape[-1])) if p is None else p for p, s in sides]
        return tf.concat(rows, 3)
    if kind == "Softmax":
        share = tf.nn.softmax(primal(inputs[0]))
        return share * (moving[0] - tf.reduce_sum(share * moving[0], 3, keepdims=True))
    if kind in head.ACTIVATION_OPS:
        return moving[0] * activation_derivative(operation, primal(inputs[0]))
    raise UnsupportedHead(f"its head has the operator {kind}, whose derivative is not implemented")


def activation_derivative(operation: Any, x: Any) -> Any:
    """Return the derivative of an activation at *x*.

    Comparisons are written as sign(relu(x)), because LiteRT has no ReluGrad, and the quantizer has
    no ranges for booleans.
    """
    import tensorflow as tf

    kind = operation.type
    positive = tf.sign(tf.nn.relu(x))
    if kind == "Relu":
        return positive
    if kind == "Relu6":
        return positive * tf.sign(tf.nn.relu(6 - x))
    if kind == "LeakyRelu":
        alpha = operation.get_attr("alpha")
        return positive * (1 - alpha) + alpha
    if kind == "Sigmoid":
        y = tf.sigmoid(x)
        return y * (1 - y)
    if kind == "Tanh":
        y = tf.tanh(x)
        return 1 - y * y
    if kind in ("Erf", "Erfc"):
        return tf.exp(-x * x) * (2 if kind == "Erf" else -2) / np.pi**0.5
    if kind == "Softplus":
        return tf.sigmoid(x)
    falling = tf.exp(tf.minimum(x, 0.0))
    if kind == "Selu":
        return positive * SELU[0] + (1 - positive) * falling * SELU[1]
    return falling
