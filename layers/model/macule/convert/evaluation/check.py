"""`macule check`: a model's folder against its own card, as it will serve."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import dataset, metrics
from macule.convert.progress import Progress
from macule.inference import decoding, native_stderr, runtime
from macule.registry import local

MAX_IMAGES = 1000
MIN_MARGIN = 0.02  # of accuracy, where images are many


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `macule check`."""
    parser.add_argument("folder", metavar="DIR", help="a folder with model.tflite and model.json")
    parser.add_argument(
        "--eval", type=Path, metavar="DIR", help="labelled images: test its figures"
    )


def check(options: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Yield what was checked, and whether it holds; stops at the first thing that rules out more.

    Raises: ModelUnavailable, BadCard, Refused.
    """
    _, card = local.fetch(options.folder)
    yield True, f"the card is whole and {card.file} is its file ({card.sha256[:12]}…)"
    with native_stderr.held():
        warm = runtime.warm(options.folder)
    yield True, f"LiteRT runs it: {len(card.labels)} labels, {card.precision}"
    pixels = dataset.synthetic_images(decoding.sides(card.side_px), 8)
    scores = np.stack([runtime.run(warm, picture[None]).probabilities for picture in pixels])
    yield bool(np.abs(scores.sum(axis=1) - 1).max() < 1e-3), "its answers are distributions"
    if options.eval:
        yield _check_accuracy(options.eval, warm)


def _check_accuracy(folder: Path, warm: runtime.Warm) -> tuple[bool, str]:
    """Compare accuracy on labelled images with what the card claims."""
    card = warm.card
    photos = dataset.sample_photos(dataset.list_photos(folder), ["val", "test"], MAX_IMAGES)
    progress = Progress(1)
    decoded = dataset.decode_photos(
        photos, card.labels, decoding.sides(card.side_px), card.resize, progress, "decoding"
    )
    if decoded.truth is None:
        return False, f"{folder} has no labels: a folder a class, or a labels.csv"
    shares = np.stack(
        [runtime.run(warm, picture[None]).probabilities for picture in decoded.pixels]
    )
    return compare_accuracy(shares, decoded.truth, card.document.get("metrics", {}))


def compare_accuracy(
    shares: NDArray[np.float32], truth: NDArray[np.int64], claimed: dict[str, Any]
) -> tuple[bool, str]:
    """Say whether accuracy here is what the card claims, within the chance of so few images."""
    right = float((shares.argmax(axis=1) == truth).mean())
    balanced = float(np.nanmean(metrics.sensitivity(shares.argmax(axis=1), truth, shares.shape[1])))
    found = f"accuracy {right:.3f}, balanced {balanced:.3f} on {len(truth)} images"
    told = claimed.get("accuracy")
    if not isinstance(told, int | float):
        return True, f"{found}; the card claims nothing"
    margin = max(MIN_MARGIN, 1.96 * (told * (1 - told) / len(truth)) ** 0.5)
    return right >= told - margin, f"{found}; the card claims {told:.3f}"
