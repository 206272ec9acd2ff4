"""The predictions of a model for labelled images, and their metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import folds, metrics
from macule.convert.evaluation.dataset import Photo
from macule.convert.evaluation.pixels import skin_tone
from macule.registry.model_card import Card

DECISIONS = ("classified", "inconclusive", "not_skin")
SUBGROUP_COLUMNS = ("sex", "age_approx", "age")
SKIN_TONE = "skin tone (ITA)"  # the trait; its groups are estimates from the pixels
MIN_SUBGROUP_IMAGES = 10  # of a subgroup; with fewer, its metrics are not shown
MIN_LABEL_IMAGES = 5  # of a label in a subgroup, and of all other labels


class Predictions(NamedTuple):
    """The predictions of a model for labelled images.

    `probabilities` (n, classes) are calibrated; `decisions` (n,) are items of DECISIONS; `truth`
    (n,) are indices into the card's labels, -1 for any other label. `skin_tones` (n,) are groups
    of `skin_tone`.
    """

    card: Card
    photos: list[Photo]
    probabilities: NDArray[np.float64]
    decisions: NDArray[np.str_]
    truth: NDArray[np.int64]
    broken: int
    skin_tones: NDArray[np.str_]

    @property
    def labelled(self) -> "Predictions":
        """The predictions for images with a label of the card."""
        known = self.truth >= 0
        return self._replace(
            photos=[photo for photo, is_known in zip(self.photos, known, strict=True) if is_known],
            probabilities=self.probabilities[known],
            decisions=self.decisions[known],
            truth=self.truth[known],
            skin_tones=self.skin_tones[known],
        )

    @property
    def uncalibrated(self) -> NDArray[np.float64]:
        """The probabilities (n, classes) before temperature scaling."""
        logarithms = np.log(np.maximum(self.probabilities, 1e-12))
        return metrics.softmax(logarithms * self.card.temperature)


def compute_metrics(predictions: Predictions, resamples: int = metrics.RESAMPLES) -> dict[str, Any]:
    """Return all metrics; those with an interval are {"value", "low", "high"}."""
    known = predictions.labelled
    photos, probabilities, truth = known.photos, known.probabilities, known.truth
    card, labels = predictions.card, list(predictions.card.labels)
    column, groups = folds.name_groups(photos)

    def metrics_of(indices: NDArray[np.int64]) -> Mapping[str, float]:
        return scalar_metrics(probabilities[indices], truth[indices], labels)

    intervals = metrics.bootstrap_intervals(metrics_of, groups, resamples)
    values = scalar_metrics(probabilities, truth, labels)
    return {
        "model": {
            key: getattr(card, key)
            for key in ("name", "version", "sha256", "precision", "temperature")
        },
        "labels": labels,
        "n": len(truth),
        "n_per_label": {label: int((truth == i).sum()) for i, label in enumerate(labels)},
        "broken": predictions.broken,
        "resampled_by": column,
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
        "subgroups": subgroup_metrics(known),
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


def subgroup_metrics(predictions: Predictions) -> list[dict[str, Any]]:
    """Return metrics by sex, age and skin tone; a trait that no image has is left out."""
    photos, labels = predictions.photos, predictions.card.labels
    traits = {
        column: np.array([subgroup_name(column, photo.row.get(column, "")) for photo in photos])
        for column in SUBGROUP_COLUMNS
    }
    traits[SKIN_TONE] = predictions.skin_tones
    found = []
    for trait, names in traits.items():
        if set(names) == {skin_tone.UNKNOWN}:
            continue
        for name in sort_groups(names):
            inside = names == name
            row = {"trait": trait, "group": name, "n": int(inside.sum())}
            probabilities, truth = predictions.probabilities[inside], predictions.truth[inside]
            found.append(row | reliable_metrics(probabilities, truth, labels))
    return found


def sort_groups(names: NDArray[np.str_]) -> list[str]:
    """Return the distinct groups: skin tones from light to dark, then others by name."""
    tones = {name: place for place, name in enumerate(skin_tone.GROUPS)}
    return sorted(set(names.tolist()), key=lambda name: (tones.get(name, len(tones)), name))


def reliable_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float | None]:
    """Return the metrics of a subgroup; None if there are too few images."""
    found: dict[str, float | None] = dict.fromkeys(
        ["accuracy", "balanced_accuracy", "mean_auc", *(f"sensitivity/{name}" for name in labels)]
    )
    if len(truth) < MIN_SUBGROUP_IMAGES:
        return found
    values = scalar_metrics(probabilities, truth, labels)
    counts = np.bincount(truth, minlength=len(labels))
    others = np.minimum(counts, len(truth) - counts)
    enough = [label for label, n in zip(labels, others, strict=True) if n >= MIN_LABEL_IMAGES]
    found["accuracy"] = values["accuracy"]
    if len(enough) == len(labels):
        found["balanced_accuracy"] = values["balanced_accuracy"]
    if enough:
        found["mean_auc"] = metrics.nan_mean([values[f"auc/{label}"] for label in enough])
    return found | {f"sensitivity/{label}": values[f"sensitivity/{label}"] for label in enough}


def subgroup_name(column: str, text: str) -> str:
    """Return the subgroup of a table entry; ages are grouped by 20 years."""
    if not column.startswith("age"):
        return text.strip().lower() or "unknown"
    try:
        low = int(float(text)) // 20 * 20
    except ValueError:
        return "unknown"
    return f"{low:02d} to {low + 19}"
