"""Recognition of architectures, and the text of scalings."""

import numpy as np
import pytest
from macule.convert.graph import inspection

NESTED = {
    "mobilenetv2_1.00_224": "MobileNetV2",
    "mobilenet_0.25_160": "MobileNet",
    "MobilenetV3small": "MobileNetV3Small",
    "MobileNetV3Large": "MobileNetV3Large",
    "efficientnetb0": "EfficientNetB0",
    "efficientnetb3_1": "EfficientNetB3",
    "efficientnetv2-s": "EfficientNetV2S",
    "efficientnetv2-b2": "EfficientNetV2B2",
    "resnet50": "ResNet50",
    "resnet50_2": "ResNet50",
    "resnet101v2": "ResNet101V2",
    "vgg16": "VGG16",
    "densenet121": "DenseNet121",
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
    "xception": "Xception",
    "NASNet": None,
    "convnext_tiny": "ConvNeXtTiny",
    "sequential_3": None,
    "my_model": None,
}
FLAT = {
    ("block_16_project", "Conv_1"): "MobileNetV2",
    ("conv_dw_13",): "MobileNet",
    ("block5_conv3",): "VGG16",
    ("block5_conv3", "block5_conv4"): "VGG19",
    ("conv5_block3_out",): "ResNet50",
    ("conv5_block3_out", "conv4_block23_out"): "ResNet101",
    ("res5c_branch2a",): "ResNet50",
    ("conv5_block16_concat",): "DenseNet121",
    ("conv5_block16_concat", "conv5_block32_concat"): "DenseNet169",
    ("mixed10",): "InceptionV3",
    ("dense_Dense1",): "teachable-machine",
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_networks_are_recognised_by_name(name: str) -> None:
    """keras.applications name their models, and number copies of them."""
    assert inspection.detect_backbone([name, "dense", "input_1"]) == NESTED[name]


@pytest.mark.parametrize("names", FLAT)
def test_flat_networks_are_recognised_by_a_layer(names: tuple[str, ...]) -> None:
    """A network without nesting is recognised by a layer that only it has."""
    assert inspection.detect_backbone([*names, "dense"]) == FLAT[names]


@pytest.mark.parametrize(
    ("last", "size"), [("d", "B0"), ("e", "B1"), ("f", "B3"), ("h", "B4"), ("m", "B7")]
)
def test_flat_efficientnets_are_recognised_by_depth(last: str, size: str) -> None:
    """The last block of stage 6 gives the size; B1 also covers B2."""
    blocks = [f"block6{letter}_expand_conv" for letter in "abcdefghijklm"]
    names = blocks[: "abcdefghijklm".index(last) + 1]

    assert inspection.detect_backbone([*names, "block1a_dwconv"]) == f"EfficientNet{size}"


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [
        (1 / 255, 0, True),
        (1 / 127.5, -1, True),
        (1, -116, True),
        (1 / 60, -2, True),
        (1 / 255**2, 0, True),
        (1, 0, False),
        (2, -1, False),
        (4.4, -2, False),
        (255, 0, False),
        (255, -116, False),
    ],
)
def test_pixel_scales_are_distinguished(scale: float, shift: float, expected: bool) -> None:
    """Scalings for 0 to 255 are distinguished from those for 0 to 1."""
    assert inspection.expects_raw_pixels(np.full(3, scale), np.full(3, shift)) is expected


def test_formulas_name_channels_only_where_they_differ() -> None:
    """Three equal values are written as one number."""
    ones = np.ones(3)

    assert inspection.format_affine(ones / 127.5, -ones) == "x * 0.007843 - 1"
    assert inspection.format_affine(ones, ones * 0) == "x"
    assert inspection.format_affine(ones, -np.array([103.939, 116.779, 123.68])) == (
        "x - [103.9 116.8 123.7]"
    )
