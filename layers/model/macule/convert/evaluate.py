"""`macule evaluate`: metrics of a model on labelled images, with the code that serves it."""

import argparse
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule import __version__
from macule.convert import card_builder
from macule.convert.errors import ConversionError
from macule.convert.evaluation import bootstrap, dataset, metrics
from macule.convert.evaluation.dataset import Photo
from macule.convert.progress import Progress
from macule.convert.report import evaluation_page
from macule.inference import classification, decoding, native_stderr, runtime
from macule.registry import local, model_card

SPLITS = ("val", "test")
DECISIONS = ("classified", "inconclusive", "not_skin")
GROUP_COLUMNS = (
    "patient",
    "patient_id",
    "lesion",
    "lesion_id",
)  # the first one that exists is used
SUBGROUP_COLUMNS = ("sex", "age_approx", "age")
MIN_SUBGROUP_IMAGES = 10  # of a subgroup; with fewer, its metrics are not shown
MIN_LABEL_IMAGES = 5  # of a label in a subgroup, and of all other labels


class Predictions(NamedTuple):
    """The predictions of a model for labelled images.

    `probabilities` (n, classes) are calibrated; `decisions` (n,) are items of DECISIONS; `truth`
    (n,) are indices into the card's labels, -1 for any other label.
    """

    card: model_card.Card
    photos: list[Photo]
    probabilities: NDArray[np.float64]
    decisions: NDArray[np.str_]
    truth: NDArray[np.int64]
    broken: int

    @property
    def labelled(self) -> "Predictions":
        """The predictions for images with a label of the card."""
        known = self.truth >= 0
        return self._replace(
            photos=[photo for photo, is_known in zip(self.photos, known, strict=True) if is_known],
            probabilities=self.probabilities[known],
            decisions=self.decisions[known],
            truth=self.truth[known],
        )

    @property
    def uncalibrated(self) -> NDArray[np.float64]:
        """The probabilities (n, classes) before temperature scaling."""
        logarithms = np.log(np.maximum(self.probabilities, 1e-12))
        return metrics.softmax(logarithms * self.card.temperature)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `macule evaluate`."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="a model folder, with model.tflite and model.json")
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="one folder per class, or labels.csv",
    )
    add("--column", help="column of the image paths in labels.csv; default: detected")
    add("--split", help="split of labels.csv; default: val and test, if they exist")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for evaluation.json and .html; default: evaluation",
    )
    add(
        "--resamples",
        type=int,
        default=bootstrap.RESAMPLES,
        metavar="N",
        help="resamples of the bootstrap",
    )


def evaluate(options: argparse.Namespace, command_line: str) -> tuple[Path, dict[str, Any]]:
    """Evaluate a model; *command_line* is shown on the page.

    Returns: the folder written, and all metrics.
    Raises: ConversionError, ModelUnavailable, BadCard.
    """
    photos = dataset.list_photos(options.data, options.column)
    splits = (options.split,) if options.split else SPLITS
    chosen = [photo for photo in photos if photo.split in splits]
    if options.split and not chosen:
        known = ", ".join(sorted({photo.split for photo in photos if photo.split})) or "none"
        raise ConversionError(f"{options.data} has no split {options.split!r}; it has: {known}.")
    predictions = predict_photos(options.folder, chosen or photos, Progress(1))
    result = compute_metrics(predictions, options.resamples)
    result |= {
        "data": options.data.name,
        "splits": dict(Counter(photo.split for photo in predictions.photos if photo.split)),
        "command": command_line,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"macule": __version__, "python": platform.python_version()},
    }
    out: Path = options.out or Path("evaluation")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card_builder.to_json(result), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    (out / "evaluation.html").write_text(
        evaluation_page.page(result, predictions), encoding="utf-8"
    )
    return out, result


def predict_photos(folder: str, photos: Sequence[Photo], progress: Progress) -> Predictions:
    """Classify every photo as the service does.

    Raises: ConversionError if no photo has a label of the model, or none can be decoded.
    """
    _, card = local.find(folder)
    with native_stderr.filtered():
        warm = runtime.get_or_load(folder)
    decoded, rows, decisions = [], [], []
    for photo in progress.track(photos, len(photos), "classifying"):
        pixels = dataset.decode_photo(photo, decoding.sides(card.side_px), card.resize)
        if pixels is None:
            continue
        scores = runtime.run(warm, pixels[None])
        decoded.append(photo)
        rows.append(scores.probabilities)
        decisions.append(
            classification.decide(card, float(scores.probabilities.max()), scores.distance)
        )
    if not decoded:
        raise ConversionError(f"None of the {len(photos)} images can be decoded.")
    index_of = {label: index for index, label in enumerate(card.labels)}
    truth = np.array([index_of.get(photo.label, -1) for photo in decoded], np.int64)
    if (truth < 0).all():
        found = ", ".join(sorted({photo.label or "(none)" for photo in decoded})[:5])
        raise ConversionError(
            f"The labels of the images are {found}, those of the model "
            f"{', '.join(card.labels[:8])}: name "
            "the folders or rows like the labels."
        )
    return Predictions(
        card,
        decoded,
        np.asarray(rows, np.float64),
        np.asarray(decisions, np.str_),
        truth,
        len(photos) - len(decoded),
    )


def compute_metrics(
    predictions: Predictions, resamples: int = bootstrap.RESAMPLES
) -> dict[str, Any]:
    """Return all metrics; those with an interval are {"value", "low", "high"}."""
    known = predictions.labelled
    photos, probabilities, truth = known.photos, known.probabilities, known.truth
    labels = list(predictions.card.labels)
    column = next((name for name in GROUP_COLUMNS if photos[0].row.get(name)), "")
    groups = [photo.row.get(column, "") or str(photo.path) for photo in photos]

    def metrics_of(indices: NDArray[np.int64]) -> Mapping[str, float]:
        return scalar_metrics(probabilities[indices], truth[indices], labels)

    intervals = bootstrap.intervals(metrics_of, groups, resamples)
    values = scalar_metrics(probabilities, truth, labels)
    return {
        "model": {
            "name": predictions.card.name,
            "version": predictions.card.version,
            "sha256": predictions.card.sha256,
            "precision": predictions.card.precision,
            "temperature": predictions.card.temperature,
        },
        "labels": labels,
        "n": len(truth),
        "n_per_label": {label: int((truth == i).sum()) for i, label in enumerate(labels)},
        "broken": predictions.broken,
        "resampled_by": column or "image",
        "figures": {
            name: {"value": value, "low": intervals[name][0], "high": intervals[name][1]}
            for name, value in values.items()
        },
        "ece_bins": metrics.BINS,
        "ece_before_temperature": metrics.calibration_error(known.uncalibrated, truth),
        "ece_by_chance": metrics.calibration_chance(probabilities),
        "confusion": metrics.confusion_matrix(probabilities.argmax(1), truth, len(labels)).tolist(),
        "decisions": count_decisions(predictions),
        "abstention": abstention_metrics(probabilities, truth, known.decisions),
        "risk_coverage": metrics.risk_coverage(probabilities, truth),
        "subgroups": subgroup_metrics(photos, probabilities, truth, labels),
    }


def scalar_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float]:
    """Return the metrics that are single numbers."""
    rows = metrics.class_metrics(probabilities, truth)
    found = {
        "mean_auc": metrics.nan_mean([row["auc"] for row in rows]),
        "accuracy": metrics.proportion(probabilities.argmax(axis=1) == truth),
        "balanced_accuracy": metrics.nan_mean([row["sensitivity"] for row in rows]),
        "ece": metrics.calibration_error(probabilities, truth),
    }
    for label, row in zip(labels, rows, strict=True):
        found |= {f"{name}/{label}": value for name, value in row.items()}
    return found


def count_decisions(predictions: Predictions) -> dict[str, dict[str, int]]:
    """Count decisions by label, including labels that the model does not have."""
    found: dict[str, dict[str, int]] = {}
    for photo, decision in zip(predictions.photos, predictions.decisions, strict=True):
        row = found.setdefault(photo.label or "(none)", dict.fromkeys(DECISIONS, 0))
        row[str(decision)] += 1
    return found


def abstention_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, decisions: NDArray[np.str_]
) -> dict[str, float]:
    """Return the coverage and accuracy of the decision `classified`."""
    classified = decisions == "classified"
    correct = probabilities.argmax(axis=1) == truth
    return {
        "coverage": float(classified.mean()),
        "accuracy_of_classified": metrics.proportion(correct[classified]),
        "accuracy_of_all": float(correct.mean()),
        "not_skin": float((decisions == "not_skin").mean()),
    }


def subgroup_metrics(
    photos: Sequence[Photo],
    probabilities: metrics.Floats,
    truth: metrics.Ints,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Return metrics by sex and age, if the table has these columns."""
    found = []
    for column in SUBGROUP_COLUMNS:
        names = np.array([subgroup_name(column, photo.row.get(column, "")) for photo in photos])
        if set(names) == {"unknown"}:
            continue
        for name in sorted(set(names)):
            inside = names == name
            row = {"trait": column, "group": str(name), "n": int(inside.sum())}
            found.append(row | reliable_metrics(probabilities[inside], truth[inside], labels))
    return found


def reliable_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float | None]:
    """Return the metrics of a subgroup; None if there are too few images."""
    counts = np.bincount(truth, minlength=len(labels))
    values = (
        scalar_metrics(probabilities, truth, labels) if len(truth) >= MIN_SUBGROUP_IMAGES else {}
    )
    enough = {
        label
        for label, count in zip(labels, counts, strict=True)
        if min(count, len(truth) - count) >= MIN_LABEL_IMAGES
    }
    areas = [values[f"auc/{label}"] for label in labels if values and label in enough]
    return {
        "accuracy": values.get("accuracy"),
        "balanced_accuracy": values.get("balanced_accuracy")
        if len(enough) == len(labels)
        else None,
        "mean_auc": metrics.nan_mean(areas) if areas else None,
        **{
            f"sensitivity/{label}": values.get(f"sensitivity/{label}") if label in enough else None
            for label in labels
        },
    }


def subgroup_name(column: str, text: str) -> str:
    """Return the subgroup of a table entry; ages are grouped by 20 years."""
    if not column.startswith("age"):
        return text.strip().lower() or "unknown"
    try:
        low = int(float(text)) // 20 * 20
    except ValueError:
        return "unknown"
    return f"{low:02d} to {low + 19}"
