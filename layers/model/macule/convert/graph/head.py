"""The head of a classifier: the pooled feature maps, and the layers after them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph import inspection
from macule.convert.graph.frozen_graph import (
    IDENTITY_OPS,
    LoadedGraph,
    constant_value,
    depends_on_image,
    skip_identities,
)

POOLS = {"Mean": "gap", "Max": "gmp", "AvgPool": "gap", "MaxPool": "gmp"}
ACTIVATION_OPS = {
    "Elu",
    "Erf",
    "Erfc",
    "LeakyRelu",
    "Relu",
    "Relu6",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Tanh",
}
RESHAPE_OPS = {"Reshape", "Squeeze", "ExpandDims"}
# Longer rows are not expanded to a diagonal matrix.
MAX_DIAGONAL_SIZE = 4096
# Larger kernels are not folded in float64; the kernel after Flatten of a VGG would need 1 GB.
MAX_FLOAT64_WEIGHTS = 2**24


class UnsupportedHead(Exception):
    """The head has no closed form; the message is the reason."""


class Head(NamedTuple):
    """The feature maps of a head, the kinds of pooling, and the names of its layers."""

    features: Any
    pools: tuple[str, ...]
    chain: str


class Linear(NamedTuple):
    """An affine map: v * kernel + bias for a kernel (d,), else v @ kernel + bias."""

    kernel: NDArray[np.floating[Any]]
    bias: NDArray[np.floating[Any]]


def find_head(loaded: LoadedGraph, logits: Any) -> Head:
    """Find the feature maps that the head pools.

    Raises: UnsupportedHead.
    """
    features: dict[str, Any] = {}
    pools: list[str] = []
    pending, visited = [logits], set()
    while pending:
        tensor = pending.pop(0)
        if tensor.name in visited or not depends_on_image(loaded, tensor):
            continue
        visited.add(tensor.name)
        kind = pooling_kind(tensor)
        if kind:
            source = tensor.op.inputs[0]
            features[source.name] = source
            pools.append(kind)
            continue
        if not inspection.is_row(tensor):
            raise UnsupportedHead("its last layers are not pooling or Flatten and Dense layers")
        if not tensor.op.inputs:
            raise UnsupportedHead("its head reads the image directly")
        pending += list(tensor.op.inputs)
    if len(features) != 1:
        raise UnsupportedHead("its head reads the feature maps of more than one layer")
    (found,) = features.values()
    if found.shape.rank != 4:
        raise UnsupportedHead("its head does not pool feature maps with height and width")
    if found.shape[1] * found.shape[2] == 1:
        raise UnsupportedHead("its last feature maps are 1 x 1, so a map has only one pixel")
    if found.op.type == "Placeholder":
        raise UnsupportedHead("its head reads the pixels directly")
    name = "-".join([*dict.fromkeys(pools), *layer_names(loaded, logits)])
    return Head(found, tuple(pools), name)


def layer_names(loaded: LoadedGraph, tensor: Any) -> list[str]:
    """Return the names of the layers from the pooling to *tensor*."""
    names: list[str] = []
    while not pooling_kind(tensor):
        moving = [source for source in tensor.op.inputs if depends_on_image(loaded, source)]
        kind = tensor.op.type
        if kind == "Mul" and len(moving) == 2:
            # x * gate(x): continue with x
            names.append("swish")
            first, second = (skip_identities(source) for source in moving)
            tensor = first if tensors_between(loaded, second, {}).count(first.name) else second
            continue
        if kind in ("MatMul", "Conv2D"):
            names.append("dense")
        elif kind in ACTIVATION_OPS:
            names.append(kind.lower())
        tensor = moving[0]
    return names[::-1]


def tensors_between(loaded: LoadedGraph, logits: Any, given: dict[str, Any]) -> list[str]:
    """Return the names of the tensors between those *given* and the logits."""
    found: list[str] = []
    pending = [logits]
    while pending:
        tensor = pending.pop()
        if tensor.name in given or tensor.name in found or not depends_on_image(loaded, tensor):
            continue
        found.append(tensor.name)
        pending += list(tensor.op.inputs)
    return found


def pooling_kind(tensor: Any) -> str:
    """Return how an operator pools maps into a row: "gap", "gmp", "flatten", or "" for others.

    Older ResNets have global pooling as a window of the size of the map.
    """
    operation = tensor.op
    if not operation.inputs:
        return ""
    source = operation.inputs[0]
    if source.shape.rank != 4 or not inspection.is_row(tensor) or source.shape[0] != 1:
        return ""
    if operation.type in POOLS and tensor.shape[-1] == source.shape[-1]:
        one = source.shape[1] * source.shape[2] == 1
        return POOLS[operation.type] if not one or operation.type in ("Mean", "Max") else ""
    if operation.type == "Reshape" and source.shape[1] * source.shape[2] > 1:
        return "flatten"
    return ""


def fold_linear(loaded: LoadedGraph, tensor: Any) -> Linear | None:
    """Fold the operators from the pooled row to *tensor* into one; None if they are not affine."""
    operation = tensor.op
    if pooling_kind(tensor):
        size = tensor.shape.num_elements()
        return Linear(np.ones(size), np.zeros(size))
    if operation.type in IDENTITY_OPS | RESHAPE_OPS:
        return fold_linear(loaded, operation.inputs[0])
    if operation.type in ("MatMul", "Conv2D") and has_constant_weights(loaded, operation):
        inner = fold_linear(loaded, operation.inputs[0])
        if inner is None:
            return None
        weights = kernel_weights(loaded, operation)
        if weights.size < MAX_FLOAT64_WEIGHTS:
            weights = weights.astype(np.float64)
        elif inner.kernel.ndim == 1 and (inner.kernel == 1).all():
            return Linear(weights, inner.bias @ weights)
        is_diagonal = inner.kernel.ndim == 1
        kernel = inner.kernel[:, None] * weights if is_diagonal else inner.kernel @ weights
        return Linear(kernel, inner.bias @ weights)
    moving = [source for source in operation.inputs if depends_on_image(loaded, source)]
    if operation.type == "ConcatV2" and len(moving) == 1:
        return fold_concat(loaded, operation, moving[0])
    if operation.type in inspection.AFFINE_OPS:
        step = inspection.read_affine(loaded, operation, moving[0]) if len(moving) == 1 else None
        inner = fold_linear(loaded, moving[0]) if step else None
        if step is None or inner is None:
            return None
        return Linear(inner.kernel * step[0], inner.bias * step[0] + step[1])
    return None


def fold_concat(loaded: LoadedGraph, operation: Any, moving: Any) -> Linear | None:
    """Fold a row that is concatenated with constants, such as those of other inputs."""
    inner = fold_linear(loaded, moving)
    if inner is None or (inner.kernel.ndim == 1 and inner.kernel.size > MAX_DIAGONAL_SIZE):
        return None
    matrix = np.diag(inner.kernel) if inner.kernel.ndim == 1 else inner.kernel
    kernels, biases = [], []
    for source in operation.inputs[:-1]:
        if source is moving:
            kernels.append(matrix)
            biases.append(inner.bias)
        else:
            numbers = np.asarray(constant_value(loaded, source), np.float64).ravel()
            kernels.append(np.zeros((len(matrix), numbers.size)))
            biases.append(numbers)
    return Linear(np.hstack(kernels), np.concatenate(biases))


def has_constant_weights(loaded: LoadedGraph, operation: Any) -> bool:
    """Return whether a product multiplies a row by constant weights."""
    if depends_on_image(loaded, operation.inputs[1]):
        return False
    if operation.type == "MatMul":
        return not operation.get_attr("transpose_a")
    return bool(operation.inputs[1].shape[:2] == (1, 1))


def kernel_weights(loaded: LoadedGraph, operation: Any) -> NDArray[np.float32]:
    """Return the weights (inputs, outputs) of a MatMul or 1 x 1 convolution."""
    weights = constant_value(loaded, operation.inputs[1])
    if operation.type == "Conv2D":
        return np.asarray(weights[0, 0])
    return np.asarray(weights.T if operation.get_attr("transpose_b") else weights)


def linear_stages(loaded: LoadedGraph, logits: Any) -> dict[str, Linear]:
    """Return the tensors up to which the head is affine, by name, with their folded map.

    Raises: UnsupportedHead if an operator after them has no known derivative.
    """
    found: dict[str, Linear] = {}
    pending, visited = [logits], set()
    while pending:
        tensor = skip_identities(pending.pop())
        if tensor.name in visited or not depends_on_image(loaded, tensor):
            continue
        visited.add(tensor.name)
        step = fold_linear(loaded, tensor)
        if step is not None:
            found[tensor.name] = step
            continue
        pending += list(tensor.op.inputs)
    return found


def tangent_weights(step: Linear, head: Head) -> NDArray[np.float32] | None:
    """Return the weights (k, d) from features to the tangent of a stage; None for the identity."""
    channels = int(head.features.shape[-1])
    if step.kernel.shape[0] != channels:
        if step.kernel.ndim == 1:
            raise UnsupportedHead("the layer after Flatten is not a Dense layer")
        summed = step.kernel.reshape(-1, channels, step.kernel.shape[1]).sum(0)
        return np.asarray(summed, np.float32)
    if step.kernel.ndim == 1:
        return None if (step.kernel == 1).all() else np.diag(step.kernel).astype(np.float32)
    return np.asarray(step.kernel, np.float32)
