"""The quantizer's recipes on a small file."""

from typing import Any

import numpy as np
import pytest
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.quantization import quantize
from numpy.typing import NDArray
from support import small_model


def probabilities(content: bytes) -> Any:
    """Return the file's answers on images that were not used for calibration."""
    return metrics.softmax(
        batch_inference.logits(content, small_model.pixels(seed=7), small_model.SCALING)
    )


@pytest.mark.slow
def test_the_input_step_is_a_pixel(content: bytes, images: list[NDArray[np.float32]]) -> None:
    """With (x-127)/128 the int8 input is pixel - 128 for any calibration images."""
    made = quantize.int8(content, images, batch_inference.scaled_bounds(small_model.SCALING))

    (source,) = quantize.open_interpreter(made).get_input_details()
    assert source["quantization"] == pytest.approx((1 / 128, -1))
    assert source["dtype"] == np.int8


def test_a_float_head_answers_in_float(content: bytes, images: list[NDArray[np.float32]]) -> None:
    """A file with a float head returns float32 logits and maps; an int8 file int8."""
    bounds = batch_inference.scaled_bounds(small_model.SCALING)

    mixed = quantize.int8(content, images, bounds, quantize.float_pattern(content))
    whole = quantize.int8(content, images, bounds)

    kinds = [
        {
            np.dtype(detail["dtype"])
            for detail in quantize.open_interpreter(made).get_output_details()
        }
        for made in (mixed, whole)
    ]
    assert kinds == [{np.dtype(np.float32)}, {np.dtype(np.int8)}]


def test_every_recipe_stays_close(content: bytes, images: list[NDArray[np.float32]]) -> None:
    """fp16 hardly changes a probability; int8 with a float head and dynamic change it little."""
    before = probabilities(content)
    head = quantize.float_pattern(content)
    made = {
        "fp16": quantize.fp16(content),
        "int8": quantize.int8(
            content, images, batch_inference.scaled_bounds(small_model.SCALING), head
        ),
        "dynamic": quantize.dynamic(content),
    }

    change = {name: np.abs(probabilities(file) - before).mean() for name, file in made.items()}

    assert change["fp16"] < 0.002
    assert max(change.values()) < 0.05
    assert all(len(file) < len(content) for file in made.values())


def test_bounds_span_all_channels() -> None:
    """A scaling that differs by channel is bounded by the widest channel."""
    assert batch_inference.scaled_bounds(((0.0, 0.0, 127.5), (255.0, 1.0, 127.5))) == pytest.approx(
        (-1.0, 255.0)
    )


def test_a_range_is_between_mean_and_maximum() -> None:
    """Images with maxima 1, 1 and 4 give a range up to 3: halfway from mean to maximum."""
    seen: quantize.Range = {}
    for most in (1.0, 1.0, 4.0):
        seen = quantize.update_range(seen, quantize.make_range(np.zeros(1), np.full(1, most)))

    assert quantize.final_range(seen)["max"] == pytest.approx(3.0)
    assert quantize.final_range(seen)["min"] == 0
