"""Read and modify the weights of a float LiteRT file in place."""

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CONVOLUTION, DEPTHWISE, DENSE = 3, 4, 9  # operator codes of the LiteRT schema
SAME_PADDING = 0
# The covariance needs 8 bytes per pair of inputs: 0.3 GB for this number. The first Dense layer of
# VGG16 has 25,088 inputs.
MAX_INPUTS = 6144
MAX_PATCHES = 64  # per feature map; adjacent patches are similar


class Layer(NamedTuple):
    """An operator with weights; `weights` and `bias` are views into the file.

    `weights`: (out, height, width, in), depthwise (1, height, width, out), dense (out, in).
    """

    code: int
    options: Any
    source: int  # index of the input tensor
    name: str  # of the weight tensor
    output: str  # name of the output tensor
    weights: Floats
    bias: Floats | None


def read_layers(raw: bytearray, exclude: str) -> list[Layer]:
    """Return the layers of *raw*, without those whose output name matches *exclude*.

    Also excluded, and rounded by the quantizer: weights that several operators share, layers with
    more than MAX_INPUTS inputs, and convolutions with groups or several filters per channel.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(memoryview(raw))
    graph = model.subgraphs[0]
    tensors = graph.tensors
    uses = Counter(
        tensors[index].buffer
        for operator in graph.operators
        for index in operator.inputs
        if index >= 0
    )

    def floats(index: int) -> Floats | None:
        tensor = tensors[index]
        data = model.buffers[tensor.buffer].data
        if index < 0 or data is None or uses[tensor.buffer] > 1:  # -1: no tensor
            return None
        values: Floats = np.asarray(data).view(np.float32).reshape(tensor.shape)
        return values

    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        output = tensors[operator.outputs[0]].name.decode()
        if code not in (CONVOLUTION, DEPTHWISE, DENSE) or re.search(exclude, output):
            continue
        source, kernel, *rest = (int(index) for index in operator.inputs)
        weights = floats(kernel)
        if weights is None or count_inputs(code, weights) > MAX_INPUTS:
            continue
        if code != DENSE and weights.shape[-1] != tensors[source].shape[-1]:
            continue
        name = tensors[kernel].name.decode()
        bias = floats(rest[0]) if rest else None
        found.append(Layer(code, operator.builtinOptions, source, name, output, weights, bias))
    return found


def count_inputs(code: int, weights: Floats) -> int:
    """Return the number of inputs of one output of a layer."""
    shape = weights.shape[1:3] if code == DEPTHWISE else weights.shape[1:]
    return int(np.prod(shape))


def group(layer: Layer, values: Floats) -> Floats:
    """Reshape *values*, shaped like the weights, to (groups, outputs, inputs).

    For a depthwise layer, each channel is a group.
    """
    if layer.code == DEPTHWISE:
        return values.reshape(-1, values.shape[-1]).T[:, None, :]
    return values.reshape(1, len(values), -1)


def ungroup(layer: Layer, rows: Floats) -> Floats:
    """Undo `group`; also for one value per output, (groups, outputs, 1)."""
    if layer.code == DEPTHWISE:
        shape = layer.weights.shape if rows.shape[2] > 1 else (1, 1, 1, len(rows))
        return rows[:, 0, :].T.reshape(shape)
    single = (rows.shape[1],) + (1,) * (layer.weights.ndim - 1)
    return rows.reshape(layer.weights.shape if rows.shape[2] > 1 else single)


def sample_patches(layer: Layer, values: Floats, random: np.random.Generator) -> Floats:
    """Return random input patches of *layer*.

    Returns: (groups, patches, inputs).
    """
    if layer.code == DENSE:
        return values.reshape(1, -1, layer.weights.shape[1])
    options, (height, width) = layer.options, layer.weights.shape[1:3]
    same = options.padding == SAME_PADDING
    step_y, step_x = options.dilationHFactor, options.dilationWFactor
    down, above, below = kernel_starts(values.shape[1], height, options.strideH, step_y, same)
    across, left, right = kernel_starts(values.shape[2], width, options.strideW, step_x, same)
    maps = np.pad(values[0], ((above, below), (left, right), (0, 0)))
    places = random.permutation(len(down) * len(across))[:MAX_PATCHES]
    y = down[places // len(across), None] + np.arange(height) * step_y
    x = across[places % len(across), None] + np.arange(width) * step_x
    cut: Floats = maps[y[:, :, None], x[:, None, :]]
    if layer.code == DEPTHWISE:
        return np.ascontiguousarray(cut.reshape(len(places), height * width, -1).transpose(2, 0, 1))
    return cut.reshape(1, len(places), -1)


def kernel_starts(
    size: int, kernel: int, stride: int, dilation: int, same: bool
) -> tuple[NDArray[np.int64], int, int]:
    """Return the start positions of a kernel along an axis, and the padding before and after."""
    extent = (kernel - 1) * dilation + 1
    if not same:
        return np.arange((size - extent) // stride + 1) * stride, 0, 0
    count = -(-size // stride)
    padding = max((count - 1) * stride + extent - size, 0)
    return np.arange(count) * stride, padding // 2, padding - padding // 2
