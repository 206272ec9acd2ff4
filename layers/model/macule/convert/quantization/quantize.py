"""Quantization of a float LiteRT file to int8 or fp16 by litert-quantizer, without TensorFlow."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = dict[str, NDArray[np.float32]]
Ranges = dict[str, Range]  # `min` and `max` by tensor name


def int8(
    content: bytes,
    images: Iterable[NDArray[np.float32]],
    bounds: tuple[float, float],
    keep_float: str | None = None,
) -> bytes:
    """Calibrate the ranges, and quantize weights (per channel) and activations to int8."""
    return quantize_static(content, calibrate_ranges(content, images, bounds), keep_float)


def calibrate_ranges(
    content: bytes, images: Iterable[NDArray[np.float32]], bounds: tuple[float, float]
) -> Ranges:
    """Calibrate the ranges of all activations.

    Args:
      content: a float `.tflite` with one input and one signature.
      images: scaled inputs (1, side, side, 3), a few hundred.
      bounds: the exact range of scaled pixels. For (x-127)/128 over 0..255, the input gets scale
        1/128 and zero point -1, so the quantized input is pixel - 128, without loss.
    """
    from litert_quantizer import calibrator, qtyping, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    name, key = input_names(content)
    with suppress_output():
        reader = calibrator.Calibrator(content, num_threads=2, qsv_update_func=update_range)
        reader.calibrate({"serving_default": [{key: image} for image in images]}, recipe)
    found = {tensor: final_range(current) for tensor, current in reader.get_model_qsvs().items()}
    return {**found, name: make_range(*(np.full((1, 1, 1, 1), end) for end in bounds))}


def update_range(current: Range, new: Range) -> Range:
    """Update the mean and the outer extremes with those of one more image."""
    new = {end: np.asarray(value, np.float32) for end, value in new.items()}  # some are bool
    if not current or not new:
        return current or new
    images = np.asarray(current.get("images", 1) + 1, np.float32)
    return {
        "min": current["min"] + (new["min"] - current["min"]) / images,
        "max": current["max"] + (new["max"] - current["max"]) / images,
        "lowest": np.minimum(current.get("lowest", current["min"]), new["min"]),
        "highest": np.maximum(current.get("highest", current["max"]), new["max"]),
        "images": images,
    }


def final_range(current: Range) -> Range:
    """Return the middle between the mean extremes of the images and the outer extremes.

    A wider range makes the steps coarse for a few values; a narrower range clips them. With the
    middle, the logits of two networks had a 10 % smaller error than with either
    (docs/decisions.md).
    """
    if "lowest" not in current:
        return current
    least, largest = current["min"] + current["lowest"], current["max"] + current["highest"]
    return make_range(least / 2, largest / 2)


def quantize_static(
    content: bytes,
    found: Ranges,
    keep_float: str | None = None,
    grids: Mapping[str, NDArray[np.float32]] | None = None,
) -> bytes:
    """Quantize weights (per channel) and activations to int8.

    Args:
      content: a float `.tflite`: the calibrated file, or one with rounded weights.
      found: ranges from `calibrate_ranges`.
      keep_float: pattern of the tensor names whose operators stay in float (`float_pattern`).
      grids: step sizes of weights that are already rounded (`rounding.round_weights`).
    """
    from litert_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(content))
    operation = qtyping.TFLOperationName
    tool.add_static_config(".*", operation.ALL_SUPPORTED, 8, 8)
    if keep_float:
        exact = quantizer.AlgorithmName.NO_QUANTIZE
        tool.update_quantization_recipe(keep_float, operation.ALL_SUPPORTED, algorithm_key=exact)
    weights = {name: make_range(-127 * grid, 127 * grid) for name, grid in (grids or {}).items()}
    return run_quantizer(tool, {**found, **weights})


def make_range(least: NDArray[Any], largest: NDArray[Any]) -> Range:
    """Return a range in the format of the quantizer."""
    return {"min": least.astype(np.float32), "max": largest.astype(np.float32)}


def fp16(content: bytes) -> bytes:
    """Store the weights as float16; the runtime converts them to float32 when it loads."""
    from litert_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(content))
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    operations, algorithm = qtyping.TFLOperationName, quantizer.AlgorithmName.FLOAT_CASTING
    for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D, operations.FULLY_CONNECTED):
        tool.update_quantization_recipe(".*", operation, config, algorithm)
    return run_quantizer(tool)


def dynamic(content: bytes) -> bytes:
    """Store the weights as int8; the runtime quantizes the activations dynamically."""
    from litert_quantizer import quantizer, recipe

    return run_quantizer(quantizer.Quantizer(bytearray(content), recipe.dynamic_wi8_afp32()))


def run_quantizer(tool: Any, ranges: Ranges | None = None) -> bytes:
    """Return the quantized file; *ranges* are for static quantization."""
    with suppress_output():
        result = tool.quantize(ranges, enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def float_pattern(content: bytes, *more: str) -> str:
    """Return the pattern of operators to keep in float: the head, the outputs, and *more*.

    In float, the logits have no steps, and small values keep their sign in the maps.
    """
    names = [re.escape(detail["name"]) for detail in open_interpreter(content).get_output_details()]
    return "|".join(["(^|/)head/", *(f"^{name}" for name in names), *more])


def input_names(content: bytes) -> tuple[str, str]:
    """Return the name of the input tensor, and its key in the signature."""
    reader = open_interpreter(content)
    (key,) = reader.get_signature_list()["serving_default"]["inputs"]
    return str(reader.get_input_details()[0]["name"]), str(key)


def open_interpreter(content: bytes, keep_all: bool = False) -> Any:
    """Open *content* to read names or, with *keep_all*, to run it and read all tensors."""
    from ai_edge_litert.interpreter import Interpreter

    if not keep_all:
        return Interpreter(model_content=content)
    with suppress_output():
        reader = Interpreter(
            model_content=content, num_threads=2, experimental_preserve_all_tensors=True
        )
        reader.allocate_tensors()
    return reader


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress the quantizer's progress bars and two expected warnings.

    Calibration must preserve all tensors. A channel with only zero weights has the range 0, which
    causes 0 / 0.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in", RuntimeWarning)
        yield
