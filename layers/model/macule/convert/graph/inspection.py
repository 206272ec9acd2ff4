"""Inspection of a classifier's graph: preprocessing, backbone and output."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph.frozen_graph import (
    IDENTITY_OPS,
    LoadedGraph,
    constant_value,
    depends_on_image,
    skip_identities,
)

AFFINE_OPS = {"Add", "AddV2", "BiasAdd", "Sub", "Mul", "RealDiv", "FusedBatchNormV3"}
SLICE_OPS = {"GatherV2", "ReverseV2", "Split", "StridedSlice", "Unpack"}
RESIZE_OPS = {"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"}
LAYER_PATTERNS = (
    ("batch_?norm", "BatchNormalization"),
    ("rescal", "Rescaling"),
    ("normali", "Normalization"),
)
BACKBONE_PATTERNS = (
    (r"mobile_?net_?v?1?_[01]\.\d+_\d+|^mobilenet$", "MobileNet"),
    (r"mobile_?net_?v2", "MobileNetV2"),
    (r"mobile_?net_?v3_?small", "MobileNetV3Small"),
    (r"mobile_?net_?v3_?large", "MobileNetV3Large"),
    (r"efficientnet_?v2_?-?(b\d|s|m|l)\b", "EfficientNetV2{}"),
    (r"efficientnet_?-?(b\d)", "EfficientNet{}"),
    (r"resnet_?(50|101|152)_?v2", "ResNet{}V2"),
    (r"resnet_?(50|101|152)", "ResNet{}"),
    (r"vgg_?(16|19)", "VGG{}"),
    (r"densenet_?(121|169|201)", "DenseNet{}"),
    (r"inception_?resnet_?v2", "InceptionResNetV2"),
    (r"inception_?v3", "InceptionV3"),
    (r"^xception", "Xception"),
    (r"nasnet_?mobile", "NASNetMobile"),
    (r"nasnet_?large", "NASNetLarge"),
    (r"convnext_?(tiny|small|base|large|xlarge)", "ConvNeXt{}"),
)
# Layers that identify a network of keras.applications in a flat model. The first match is used, so
# larger networks come before the smaller ones that they contain.
BACKBONE_LAYERS = (
    ("conv5_block3_preact_bn", "ResNet50V2"),
    ("conv5_block48_concat", "DenseNet201"),
    ("conv5_block32_concat", "DenseNet169"),
    ("conv5_block16_concat", "DenseNet121"),
    ("conv4_block36_out", "ResNet152"),
    ("conv4_block23_out", "ResNet101"),
    ("conv5_block3_out", "ResNet50"),
    ("res5c_branch2a", "ResNet50"),
    ("block5_conv4", "VGG19"),
    ("block5_conv3", "VGG16"),
    ("block14_sepconv2", "Xception"),
    ("block8_10_conv", "InceptionResNetV2"),
    ("mixed10", "InceptionV3"),
    ("conv_dw_13", "MobileNet"),
    ("block_16_project", "MobileNetV2"),
)


class Preprocessing(NamedTuple):
    """The preprocessing layers inside the model, and whether it takes pixels of 0 to 255."""

    layers: tuple[str, ...]
    takes_raw_pixels: bool


class Output(NamedTuple):
    """The output of a model; `logits` is the name of the tensor before its softmax or sigmoid."""

    kind: str
    units: int
    logits: str | None


def find_output(loaded: LoadedGraph) -> Output:
    """Find the kind of the output: "softmax", "sigmoid", "linear", or the name of its operator."""
    tensor = loaded.output
    units = int(tensor.shape[-1] or 0) if tensor.shape.rank else 0
    last = skip_identities(tensor)
    while last.op.type in ("Reshape", "Squeeze") and is_row(last.op.inputs[0]) and is_row(last):
        last = skip_identities(last.op.inputs[0])
    kind = last.op.type
    if kind == "Softmax":
        return Output("softmax", units, skip_identities(last.op.inputs[0]).name)
    if kind == "Sigmoid":
        return Output("sigmoid", units, skip_identities(last.op.inputs[0]).name)
    if kind in ("MatMul", "BiasAdd", "Add", "AddV2", "Conv2D", "Mul", "Sub", "RealDiv"):
        return Output("linear", units, last.name)
    return Output(kind, units, None)


def is_row(tensor: Any) -> bool:
    """Return whether a tensor is one row: (1, n), (n,) or (1, 1, 1, n)."""
    shape = tensor.shape.as_list()
    return all(size == 1 for size in shape[:-1])


def find_preprocessing(loaded: LoadedGraph, names: Mapping[str, str]) -> Preprocessing:
    """Follow the image through resizing and scaling, up to the first other layer."""
    channels = loaded.image.shape[-1]
    scale, shift = np.ones(channels), np.zeros(channels)
    lines: list[str] = []
    group: list[Any] = []
    part = [np.ones(channels), np.zeros(channels)]
    tensor = loaded.image

    def close() -> None:
        text = format_affine(part[0], part[1])
        if group and text != "x":
            lines.append(f"{layer_title(group, names)}: {text}")
        group.clear()
        part[:] = [np.ones(channels), np.zeros(channels)]

    while True:
        users = [user for user in tensor.consumers() if user.name in loaded.image_dependent]
        user = users[0] if len(users) == 1 else None
        flipped = find_channel_reversal(loaded, tensor, users)
        step = read_affine(loaded, user, tensor) if user and user.type in AFFINE_OPS else None
        if step and all(array.size in (1, channels) for array in step):
            if group and layer_scope(group[-1], names) != layer_scope(user, names):
                close()
            group.append(user)
            part[:] = [part[0] * step[0], part[1] * step[0] + step[1]]
            scale, shift = scale * step[0], shift * step[0] + step[1]
        elif user and user.type in RESIZE_OPS:
            close()
            sizes = constant_value(loaded, user.inputs[1])
            lines.append(f"Resizing: {sizes[0]} x {sizes[1]}")
        elif flipped is not None:
            close()
            lines.append("Channels reversed: BGR")
            tensor = flipped
            continue
        elif user is None or user.type not in IDENTITY_OPS | {"Cast"}:
            break
        tensor = users[0].outputs[0]
    close()
    return Preprocessing(tuple(lines), expects_raw_pixels(scale, shift))


def expects_raw_pixels(scale: NDArray[Any], shift: NDArray[Any]) -> bool:
    """Return whether a scaling is for pixels of 0 to 255.

    All known schemes for 0 to 255 reduce the range to 1 to 10, or subtract a mean near 110 and keep
    the range. Schemes for 0 to 1 multiply by 1 or more and shift by at most 3.
    """
    factor, offset = float(np.abs(scale).max()), float(np.abs(shift).max())
    return factor <= 0.1 or (factor <= 2 and offset >= 50)


def read_affine(
    loaded: LoadedGraph, user: Any, tensor: Any
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Read an operator as x * scale + shift; None if its operand is not constant."""
    if user.type == "FusedBatchNormV3":
        gamma, beta, mean, variance = (constant_value(loaded, t) for t in user.inputs[1:5])
        factor = gamma / np.sqrt(variance + user.get_attr("epsilon"))
        return factor, beta - mean * factor
    first, second = user.inputs
    other = second if first is tensor else first
    if depends_on_image(loaded, other):
        return None
    number = np.asarray(constant_value(loaded, other), np.float64).ravel()
    one, zero = np.ones(1), np.zeros(1)
    if user.type in ("Add", "AddV2", "BiasAdd"):
        return one, number
    if user.type == "Sub":
        return (one, -number) if first is tensor else (-one, number)
    if user.type == "Mul":
        return number, zero
    return (1 / number, zero) if first is tensor else None


def find_channel_reversal(loaded: LoadedGraph, tensor: Any, users: list[Any]) -> Any:
    """Find the tensor that reverses the channels of *tensor*, or None.

    This can be slices and a concatenation, a gather or a reversal, so a ramp over the channels is
    evaluated.
    """
    if not users or any(user.type not in SLICE_OPS for user in users):
        return None
    outputs = [output for user in users for output in user.outputs]
    joined = {user.name: user for output in outputs for user in output.consumers()}
    last = [user.outputs[0] for user in joined.values() if user.type in ("Pack", "ConcatV2")]
    found = outputs[0] if len(outputs) == 1 and outputs[0].shape == tensor.shape else None
    found = last[0] if found is None and len(last) == 1 == len(joined) else found
    if found is None or found.shape != tensor.shape or tensor.shape[-1] == 1:
        return None
    ramp = np.broadcast_to(np.arange(tensor.shape[-1], dtype=np.float32), tensor.shape.as_list())
    answer = loaded.session.run(found, {tensor: ramp})
    return found if (answer == ramp[..., ::-1]).all() else None


def layer_scope(operation: Any, names: Mapping[str, str]) -> str:
    """Return the name of the layer of an operator."""
    parts = operation.name.split("/")
    for part in reversed(parts[:-1]):
        if part in names or re.sub(r"_\d+$", "", part) in names:
            return str(part)
    return str("/".join(parts[:-1]))


def layer_title(operations: list[Any], names: Mapping[str, str]) -> str:
    """Return the class of a layer if known, else a description of its operator."""
    part = layer_scope(operations[0], names)
    known = names.get(part) or names.get(re.sub(r"_\d+$", "", part))
    if known and known not in ("TFOpLambda", "Functional", "Sequential", "Model"):
        return known
    last = part.rsplit("/", 1)[-1].lower()
    found = next((kind for mark, kind in LAYER_PATTERNS if re.search(mark, last)), None)
    words = {"Mul": "Multiply", "RealDiv": "Divide", "Sub": "Subtract"}
    return found or words.get(operations[0].type, "Add")


def format_affine(scale: NDArray[Any], shift: NDArray[Any]) -> str:
    """Format x * scale + shift, per channel only if the channels differ."""

    def number(values: NDArray[Any]) -> str:
        shown = [f"{entry:.4g}" for entry in np.ravel(values)]
        return shown[0] if len(set(shown)) == 1 else f"[{' '.join(shown)}]"

    factor, less = number(scale), bool((shift < 0).all())
    term = number(-shift if less else shift)
    text = "x" if factor == "1" else f"x * {factor}"
    return text if term in ("0", "-0") else f"{text} {'-' if less else '+'} {term}"


def detect_backbone(names: Iterable[str]) -> str | None:
    """Detect the architecture from the names of layers and nested models, or None."""
    known = {re.sub(r"_\d+$", "", name) for name in names} | set(names)
    if any(re.search(r"_(GlobalAveragePooling2D|Dense)\d+$", name) for name in known):
        return "teachable-machine"
    lower = sorted(name.lower() for name in known)
    for pattern, family in BACKBONE_PATTERNS:
        for name in lower:
            match = re.search(pattern, name)
            if match:
                size = match.group(1) if match.groups() else ""
                return family.format({"xlarge": "XLarge"}.get(size, size.capitalize()))
    if "block6a_expand_conv" in known:
        return detect_efficientnet(known)
    found = next((family for mark, family in BACKBONE_LAYERS if mark in known), None)
    if found is None and any(name.startswith("expanded_conv_10") for name in known):
        return "MobileNetV3Large" if "expanded_conv_14_project" in known else "MobileNetV3Small"
    return found


def detect_efficientnet(names: set[str]) -> str | None:
    """Detect the size of a flat EfficientNet by the last block of stage 6; B1 equals B2."""
    if "block1a_dwconv" not in names:
        return "EfficientNetV2"
    sizes = {"m": "B7", "k": "B6", "i": "B5", "h": "B4", "f": "B3", "e": "B1", "d": "B0"}
    found = (size for last, size in sizes.items() if f"block6{last}_expand_conv" in names)
    return f"EfficientNet{next(found, 'B0')}"
