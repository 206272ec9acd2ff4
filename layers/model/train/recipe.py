"""The recipe: decoded photos in, a quantized model and its figures out; the same each time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from convert import export, metrics, quantize, rounding, run
from numpy.typing import NDArray

from train import backbone, data, head

Say = Callable[[str], None]
SCALING = (backbone.MEAN, backbone.STD)

# The first layers stay float: they make most of the noise. Error of the pooled features
# against fp32 on 200 training images, in units of their spread, and RSS of a bare process: all int8
# 0.156 and 48.2 MB, stem and block 0 float 0.123 and 50.0 MB, block 1 too 0.104 and 52.7 MB. The
# last step costs more memory than it is worth under a limit of 64 MB; latency is the same.
EARLY = "/(conv_stem|blocks_0_)"
CALIBRATION_IMAGES = 384
# The share of validation images that get an answer; the least certain fifth is inconclusive.
COVERAGE = 0.8


@dataclass(frozen=True)
class Made:
    """The shipped file, and what its card must say."""

    content: bytes
    temperature: float
    inconclusive: float
    penalty: float
    penalties: dict[float, float]
    figures: dict[str, Any]


def make(
    body: Any, training: data.Set, validation: data.Set, labels: list[str], seed: int, say: Say
) -> Made:
    """Train a head on the frozen *body*, quantize both, and measure every precision.

    *body* is a Keras model (n, side, side, 3) -> (n, h, w, features), input scaled by SCALING.
    """
    samples = calibration(training.pixels, seed)
    say("features: exporting and quantizing the backbone")
    exact = export.export_features(body)
    coarse = rounding.int8(exact, samples, bounds(), quantize.head(exact, EARLY))
    # The head learns on the features of both files, so that it leans on none that int8 spoils.
    views = []
    for name, content in (("int8", coarse), ("fp32", exact)):
        say(f"features: {len(training.truth)} images, 4 mirrorings, {name}")
        views.append(features(content, training.pixels))

    say("head: choosing the penalty by cross-validation")
    penalty, penalties = head.choose(views[0], training.truth, len(labels), seed)
    say(f"head: fitting with penalty {penalty}")
    both = head.stack(np.concatenate(views, axis=1), training.truth)
    fitted = head.fit(*both, len(labels), penalty)

    whole = export.attach(body, fitted.kernel, fitted.bias)
    files = {
        "int8": rounding.int8(whole, samples, bounds(), quantize.head(whole, EARLY)),
        "fp32": whole,
        "fp16": quantize.fp16(whole),
        "int8_float_head": quantize.int8(whole, samples, bounds(), quantize.head(whole)),
        "int8_plain": quantize.int8(whole, samples, bounds()),
    }
    logits = {}
    for name, content in files.items():
        say(f"validation: {len(validation.truth)} images, {name}, {len(content)} bytes")
        logits[name] = run.logits(content, validation.pixels, SCALING)
    temperature = round(metrics.fit_temperature(logits["int8"], validation.truth), 4)
    calibrated = metrics.softmax(logits["int8"], temperature)
    inconclusive = round(float(np.quantile(calibrated.max(axis=1), 1 - COVERAGE)), 4)
    reference = metrics.softmax(logits["fp32"], temperature)
    figures = {
        name: measure(logits[name], validation.truth, labels)
        | {"bytes": len(content)}
        | {"against_fp32": metrics.compare(metrics.softmax(logits[name], temperature), reference)}
        for name, content in files.items()
    }
    # 150 images are few to say how often int8 changes an answer; that needs no labels
    figures["int8"]["against_fp32_on_training_images"] = metrics.compare(
        *(metrics.softmax(fitted.logits(view[:, 0]), temperature) for view in views)
    )
    figures["int8"]["inconclusive"] = metrics.abstain(calibrated, validation.truth, inconclusive)
    return Made(files["int8"], temperature, inconclusive, penalty, penalties, figures)


def measure(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: list[str]
) -> dict[str, Any]:
    """All figures of one file, at the temperature that suits it best on the same images."""
    temperature = metrics.fit_temperature(logits, truth)
    return {"temperature": temperature} | metrics.summarise(logits, truth, labels, temperature)


def features(content: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pooled features (n, 4, features) of the four mirrorings, the photo as it is first."""
    views = [run.logits(content, mirrored, SCALING) for mirrored in data.flips(pixels)]
    return np.stack(views, axis=1)


def calibration(pixels: NDArray[np.uint8], seed: int) -> list[NDArray[np.float32]]:
    """Draw the scaled images that set the ranges of the int8 activations."""
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:CALIBRATION_IMAGES]
    return [run.scale(pixels[place][None], SCALING) for place in chosen]


def bounds() -> tuple[float, float]:
    """Least and largest scaled pixel."""
    mean, std = SCALING
    return (0 - mean[0]) / std[0], (255 - mean[0]) / std[0]
