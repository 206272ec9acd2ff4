"""Rounding of weights by the inputs of their layer."""

import numpy as np
import pytest
from macule.convert.evaluation import batch_inference
from macule.convert.quantization import quantize, rounding, tflite_weights
from numpy.typing import NDArray
from support import small_model


def test_errors_cancel_for_correlated_inputs() -> None:
    """On correlated inputs the output error is less than half of nearest rounding's."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(500, 4)) @ random.normal(size=(4, 9))
    inputs += random.normal(0, 0.05, inputs.shape)
    rows = random.normal(size=(1, 16, 9)).astype(np.float32)
    grid = np.abs(rows).max(axis=2, keepdims=True) / 15
    moments = (inputs.T @ inputs / len(inputs)).astype(np.float32)[None]

    chosen = rounding.gptq_round(rows, moments, grid)

    nearest = np.rint(rows / grid) * grid
    errors = [np.square((rows - kept) @ inputs.T).mean() for kept in (chosen, nearest)]
    assert errors[0] < errors[1] / 2


def test_channels_of_a_depthwise_layer_are_rounded_separately() -> None:
    """Two groups together give the weights of each group alone."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(2, 1, 9)).astype(np.float32)
    root = random.normal(size=(2, 9, 9)).astype(np.float32)
    moments, grid = root @ root.transpose(0, 2, 1), np.full((2, 1, 1), 0.1, np.float32)

    together = rounding.gptq_round(rows, moments, grid)

    apart = [
        rounding.gptq_round(rows[[index]], moments[[index]], grid[[index]])[0] for index in (0, 1)
    ]
    assert together == pytest.approx(np.stack(apart), abs=1e-6)


def test_patches_are_the_inputs_of_a_layer(
    content: bytes, images: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches times weights plus bias are the layer's output, with strides and padding."""
    monkeypatch.setattr(tflite_weights, "MAX_PATCHES", 10_000)
    found = tflite_weights.read_layers(bytearray(content), quantize.float_pattern(content))
    reader = quantize.open_interpreter(content, keep_all=True)
    reader.set_tensor(reader.get_input_details()[0]["index"], images[0])
    reader.invoke()
    tensors = {detail["name"]: detail["index"] for detail in reader.get_tensor_details()}

    for layer in found:
        values = reader.get_tensor(layer.source)
        met = tflite_weights.sample_patches(layer, values, np.random.default_rng(0))
        made = met @ tflite_weights.group(layer, layer.weights).transpose(0, 2, 1)
        made = made.transpose(1, 0, 2).reshape(met.shape[1], -1) + layer.bias
        output = reader.get_tensor(tensors[layer.output]).reshape(met.shape[1], -1)
        limited = np.clip(made, output.min(axis=0), output.max(axis=0))
        assert np.sort(limited, axis=0) == pytest.approx(np.sort(output, axis=0), abs=1e-4)
    assert {layer.code for layer in found} == {tflite_weights.CONVOLUTION, tflite_weights.DEPTHWISE}


def test_the_quantized_file_has_the_rounded_weights(
    content: bytes, images: list[NDArray[np.float32]]
) -> None:
    """The stored weight times its step is the rounded weight."""
    head = quantize.float_pattern(content)
    settled, grids = rounding.round_weights(content, images, head)
    found = quantize.calibrate_ranges(
        content, images, batch_inference.scaled_bounds(small_model.SCALING)
    )

    reader = quantize.open_interpreter(
        quantize.quantize_static(settled, found, head, grids), keep_all=True
    )

    stored = {detail["name"]: detail for detail in reader.get_tensor_details()}
    for layer in tflite_weights.read_layers(bytearray(settled), head):
        detail = stored[layer.name]
        values = reader.get_tensor(detail["index"]).astype(np.float32)
        assert values * grids[layer.name] == pytest.approx(layer.weights, abs=1e-6)


def test_the_head_is_not_rounded(content: bytes, images: list[NDArray[np.float32]]) -> None:
    """The layers of the head have no grid, and their weights are unchanged."""
    head = quantize.float_pattern(content)

    settled, grids = rounding.round_weights(content, images, head)

    before, after = (
        tflite_weights.read_layers(bytearray(file), "^$") for file in (content, settled)
    )
    kept = [one for one in zip(before, after, strict=True) if one[0].name not in grids]
    assert kept
    assert all((old.weights == new.weights).all() for old, new in kept)


def test_few_images_are_enough(content: bytes, images: list[NDArray[np.float32]]) -> None:
    """With two images the answers stay close."""
    settled, _ = rounding.round_weights(content, images[:2], quantize.float_pattern(content))

    before, after = (
        batch_inference.logits(file, small_model.pixels(), small_model.SCALING)
        for file in (content, settled)
    )
    assert np.abs(before - after).mean() < 0.1 * before.std()
