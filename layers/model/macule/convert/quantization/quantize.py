"""A float LiteRT file to int8 or fp16, by litert-quantizer; no TensorFlow."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = dict[str, NDArray[np.float32]]
Ranges = dict[str, Range]  # of each tensor, by name: its `min` and `max`


def int8(
    content: bytes,
    images: Iterable[NDArray[np.float32]],
    bounds: tuple[float, float],
    keep_float: str | None = None,
) -> bytes:
    """Quantize weights (per channel) and activations to int8; see `ranges` and `static`."""
    return quantize_static(content, calibrate_ranges(content, images, bounds), keep_float)


def calibrate_ranges(
    content: bytes, images: Iterable[NDArray[np.float32]], bounds: tuple[float, float]
) -> Ranges:
    """Find the range of every activation.

    Args:
      content: a float `.tflite` with one input and one signature.
      images: scaled inputs (1, side, side, 3) to calibrate on; a few hundred.
      bounds: the exact range of scaled pixels. With (x-127)/128 over 0..255 the input becomes
        scale 1/128 and zero point -1, so that pixel - 128 is the input and nothing is lost.
    """
    from litert_quantizer import calibrator, qtyping, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    name, key = input_names(content)
    with suppress_output():
        reader = calibrator.Calibrator(content, num_threads=2, qsv_update_func=update_range)
        reader.calibrate({"serving_default": [{key: image} for image in images]}, recipe)
    found = {tensor: final_range(seen) for tensor, seen in reader.get_model_qsvs().items()}
    return {**found, name: make_range(*(np.full((1, 1, 1, 1), end) for end in bounds))}


def update_range(seen: Range, new: Range) -> Range:
    """Take the extremes of one more image into account: the mean of all, and the outermost."""
    new = {end: np.asarray(value, np.float32) for end, value in new.items()}  # some are bool
    if not seen or not new:
        return seen or new
    images = np.asarray(seen.get("images", 1) + 1, np.float32)
    return {
        "min": seen["min"] + (new["min"] - seen["min"]) / images,
        "max": seen["max"] + (new["max"] - seen["max"]) / images,
        "lowest": np.minimum(seen.get("lowest", seen["min"]), new["min"]),
        "highest": np.maximum(seen.get("highest", seen["max"]), new["max"]),
        "images": images,
    }


def final_range(seen: Range) -> Range:
    """Put the range midway between an image's usual extremes and the outermost of all.

    Wider, every step is coarse for the sake of a few values; narrower, those are cut off. The
    logits of two networks erred less by a tenth than with either (docs/decisions.md).
    """
    if "lowest" not in seen:
        return seen
    return make_range((seen["min"] + seen["lowest"]) / 2, (seen["max"] + seen["highest"]) / 2)


def quantize_static(
    content: bytes,
    found: Ranges,
    keep_float: str | None = None,
    grids: Mapping[str, NDArray[np.float32]] | None = None,
) -> bytes:
    """Quantize weights (per channel) and activations to int8.

    Args:
      content: a float `.tflite`, the one that *found* came from or one much like it.
      found: as `ranges` gives it.
      keep_float: pattern of the tensor names whose operators stay float, as `head` gives it.
      grids: steps of weights that lie on their grid already, as `rounding.settle` gives them.
    """
    from litert_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(content))
    operation = qtyping.TFLOperationName
    tool.add_static_config(".*", operation.ALL_SUPPORTED, 8, 8)
    if keep_float:
        exact = quantizer.AlgorithmName.NO_QUANTIZE
        tool.update_quantization_recipe(keep_float, operation.ALL_SUPPORTED, algorithm_key=exact)
    weights = {name: make_range(-127 * grid, 127 * grid) for name, grid in (grids or {}).items()}
    with suppress_output():
        result = tool.quantize({**found, **weights}, enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def make_range(least: NDArray[Any], largest: NDArray[Any]) -> Range:
    """Say a range as the quantizer does."""
    return {"min": least.astype(np.float32), "max": largest.astype(np.float32)}


def fp16(content: bytes) -> bytes:
    """Store the weights as float16; the runtime widens them to float32 when it loads."""
    from litert_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(content))
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    operations = qtyping.TFLOperationName
    for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D, operations.FULLY_CONNECTED):
        tool.update_quantization_recipe(
            ".*", operation, config, quantizer.AlgorithmName.FLOAT_CASTING
        )
    with suppress_output():
        result = tool.quantize(enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def dynamic(content: bytes) -> bytes:
    """Store the weights as int8; the runtime quantizes each activation as it meets it."""
    from litert_quantizer import quantizer, recipe

    with suppress_output():
        tool = quantizer.Quantizer(bytearray(content), recipe.dynamic_wi8_afp32())
        result = tool.quantize(enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def float_pattern(content: bytes, *more: str) -> str:
    """Pattern for the operators best kept float: the head's, the outputs', and *more*.

    In float the logits are not stepped, and weak evidence keeps its sign in the maps.
    """
    names = [re.escape(detail["name"]) for detail in open_interpreter(content).get_output_details()]
    return "|".join(["(^|/)head/", *(f"^{name}" for name in names), *more])


def input_names(content: bytes) -> tuple[str, str]:
    """Names of the one input: of its tensor, and of its key in the signature."""
    reader = open_interpreter(content)
    (key,) = reader.get_signature_list()["serving_default"]["inputs"]
    return str(reader.get_input_details()[0]["name"]), str(key)


def open_interpreter(content: bytes, keep_all: bool = False) -> Any:
    """Open *content* to read its names or, with *keep_all*, to run it and read every tensor."""
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
    """Keep the quantizer's progress bars and two expected warnings off this program's output.

    It must hold every tensor of the float model to calibrate, and a channel that training left
    dead has a weight range of 0, which is 0 / 0 on the way to its zeros.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in", RuntimeWarning)
        yield
