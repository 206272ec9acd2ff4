"""`macule evaluate`: metrics of a model on labelled images, with the code that serves it."""

import argparse
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import fromarray

from macule import __version__
from macule.convert import card_builder
from macule.convert.errors import BadInput
from macule.convert.evaluation import dataset, fitted, metrics
from macule.convert.evaluation.dataset import Photo
from macule.convert.evaluation.pixels import robustness, skin_tone
from macule.convert.evaluation.predictions import Predictions, compute_metrics
from macule.convert.progress import Progress
from macule.convert.report import evaluation_page
from macule.inference import classification, decoding, native_stderr, runtime
from macule.inference.runtime.loading import LoadedModel
from macule.registry import local

SPLITS = ("val", "test")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    add("folder", metavar="DIR", help="a model folder, with model.tflite and model.json")
    add("--data", **folder, required=True, help="one folder per class, or labels.csv")
    add("--column", help="column of the image paths in labels.csv; default: detected")
    add("--split", help="split of labels.csv; default: val and test, if they exist")
    add("--out", **folder, help="folder for evaluation.json and .html; default: evaluation")
    resamples = metrics.RESAMPLES
    add("--resamples", type=int, default=resamples, metavar="N", help="resamples of the bootstrap")
    images, about = robustness.IMAGES, "images whose changed copies are compared, 0 for none"
    add("--robustness", type=int, default=images, metavar="N", help=f"{about}; default: {images}")


def evaluate(options: argparse.Namespace, command_line: str) -> tuple[Path, dict[str, Any]]:
    """Evaluate a model; *command_line* is shown on the page.

    Returns: the folder written, and all metrics.
    Raises: BadInput, ModelUnavailable, BadCard.
    """
    if options.robustness < 0:
        raise BadInput(f"--robustness is {options.robustness}; it must be 0 or more.")
    photos = dataset.list_photos(options.data, options.column)
    splits = (options.split,) if options.split else SPLITS
    chosen = [photo for photo in photos if photo.split in splits]
    if options.split and not chosen:
        known = ", ".join(sorted({photo.split for photo in photos if photo.split})) or "none"
        raise BadInput(f"{options.data} has no split {options.split!r}; it has: {known}.")
    progress = Progress(1)
    predictions = predict_photos(options.folder, chosen or photos, progress)
    result = compute_metrics(predictions, options.resamples)
    sample = dataset.sample_photos(predictions.labelled.photos, (), options.robustness)
    result["robustness"] = measure_robustness(runtime.get_or_load(options.folder), sample, progress)
    result |= {
        "data": options.data.name,
        "fitted_images": fitted.count(Path(options.folder), [p.path for p in predictions.photos]),
        "splits": dict(Counter(photo.split for photo in predictions.photos if photo.split)),
        "command": command_line,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"macule": __version__, "python": platform.python_version()},
    }
    out: Path = options.out or Path("evaluation")
    out.mkdir(parents=True, exist_ok=True)
    card_builder.write_json(out / "evaluation.json", result)
    (out / "evaluation.html").write_text(evaluation_page.page(result, predictions), "utf-8")
    return out, result


def predict_photos(folder: str, photos: Sequence[Photo], progress: Progress) -> Predictions:
    """Classify every photo as the service does.

    Raises: BadInput if no photo has a label of the model, or none can be decoded.
    """
    _, card = local.find(folder)
    with native_stderr.filtered():
        warm = runtime.get_or_load(folder)
    decoded, rows, decisions, tones = [], [], [], []
    for photo in progress.track(photos, len(photos), "classifying"):
        pixels = dataset.decode_photo(photo, decoding.sides(card.side_px), card.resize)
        if pixels is None:
            continue
        scores = runtime.run(warm, fromarray(pixels))
        top = max(scores.probabilities)
        decoded.append(photo)
        rows.append(scores.probabilities)
        verdict = classification.decide(card, top, scores.distance, scores.clinical)
        decisions.append(verdict.decision)
        tones.append(skin_tone.estimate(pixels))
    if not decoded:
        raise BadInput(f"None of the {len(photos)} images can be decoded.")
    index_of = {label: index for index, label in enumerate(card.labels)}
    truth = np.array([index_of.get(photo.label, -1) for photo in decoded], np.int64)
    if (truth < 0).all():
        found = sorted({photo.label or "(none)" for photo in decoded})
        raise dataset.other_labels(found, card.labels)
    broken = len(photos) - len(decoded)
    probabilities = np.asarray(rows, np.float64)
    return Predictions(
        card, decoded, probabilities, np.asarray(decisions), truth, broken, np.asarray(tones)
    )


def measure_robustness(
    model: LoadedModel, photos: Sequence[Photo], progress: Progress
) -> dict[str, Any] | None:
    """Compare the answers to *photos* with those to changed copies; None without photos."""
    if not photos:
        return None
    answer = partial(robustness.classify, model)
    tracked = progress.track(photos, len(photos), "changing images")
    return robustness.measure((photo.path.read_bytes() for photo in tracked), answer)
