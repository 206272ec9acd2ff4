"""`macule check`: verification of a model folder against its card."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import fromarray

from macule.convert.evaluation import dataset, metrics
from macule.convert.progress import Progress
from macule.inference import decoding, native_stderr, runtime
from macule.inference.runtime.loading import LoadedModel
from macule.registry import local

MAX_IMAGES = 1000
MIN_MARGIN = 0.02  # of accuracy, for any number of images


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="DIR", help="a model folder, with model.tflite and model.json")
    add("--eval", type=Path, metavar="DIR", help="labelled images, to verify the accuracy")


def check(options: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Yield whether each check passed, and its text; errors end the checks.

    Raises: ModelUnavailable, BadCard, BadInput.
    """
    _, card = local.find(options.folder)
    yield True, f"the card is valid and {card.file} matches it ({card.sha256[:12]}…)"
    with native_stderr.filtered():
        warm = runtime.get_or_load(options.folder)
    yield True, f"LiteRT runs the model: {len(card.labels)} labels, {card.precision}"
    pixels = dataset.synthetic_images(decoding.sides(card.side_px), 8)
    off = np.abs(_predict(warm, pixels).sum(axis=1) - 1).max()
    yield bool(off < 1e-3), "the outputs are probabilities that sum to 1"
    if options.eval:
        yield _check_accuracy(options.eval, warm)


def _predict(warm: LoadedModel, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.array([runtime.run(warm, fromarray(image)).probabilities for image in pixels])


def _check_accuracy(folder: Path, warm: LoadedModel) -> tuple[bool, str]:
    """Compare the accuracy on labelled images with that of the card."""
    card = warm.card
    photos = dataset.sample_photos(dataset.list_photos(folder), ["val", "test"], MAX_IMAGES)
    sides = decoding.sides(card.side_px)
    decoded = dataset.decode_photos(
        photos, card.labels, sides, card.resize, Progress(1), "decoding"
    )
    if decoded.truth is None:
        return False, f"{folder} has no labels: use one folder per class, or a labels.csv"
    shares = _predict(warm, decoded.pixels)
    return compare_accuracy(shares, decoded.truth, card.document.get("metrics", {}))


def compare_accuracy(
    shares: NDArray[np.float64], truth: NDArray[np.int64], claimed: dict[str, Any]
) -> tuple[bool, str]:
    """Test whether the accuracy matches the card's, within the margin of the sample size."""
    accuracy = float((shares.argmax(axis=1) == truth).mean())
    balanced = float(np.nanmean(metrics.sensitivity(shares.argmax(axis=1), truth, shares.shape[1])))
    found = f"accuracy {accuracy:.3f}, balanced {balanced:.3f} on {len(truth)} images"
    expected = claimed.get("accuracy")
    if not isinstance(expected, int | float):
        return True, f"{found}; the card has no accuracy"
    margin = max(MIN_MARGIN, 1.96 * (expected * (1 - expected) / len(truth)) ** 0.5)
    return accuracy >= expected - margin, f"{found}; the card has {expected:.3f}"
