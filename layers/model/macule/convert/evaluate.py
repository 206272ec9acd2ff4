"""`macule evaluate`: a served model on labelled images, through the very path that serves."""

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
GROUP_COLUMNS = ("patient", "patient_id", "lesion", "lesion_id")  # columns, the first that is there
SUBGROUP_COLUMNS = ("sex", "age_approx", "age")
MIN_SUBGROUP_IMAGES = 10  # images of a subgroup below which its figures say nothing
MIN_LABEL_IMAGES = 5  # likewise of one label in it, and of all others


class Predictions(NamedTuple):
    """What a model answers to labelled images, in one order.

    `probabilities` (n, classes), calibrated; `decisions` (n,) words of DECISIONS; `truth` (n,)
    places in the card's labels, -1 for a label that is none of them.
    """

    card: model_card.Card
    photos: list[Photo]
    probabilities: NDArray[np.float64]
    decisions: NDArray[np.str_]
    truth: NDArray[np.int64]
    broken: int

    @property
    def labelled(self) -> "Predictions":
        """Those to images whose label is one of the card's."""
        known = self.truth >= 0
        return self._replace(
            photos=[photo for photo, is_known in zip(self.photos, known, strict=True) if is_known],
            probabilities=self.probabilities[known],
            decisions=self.decisions[known],
            truth=self.truth[known],
        )

    @property
    def uncalibrated(self) -> NDArray[np.float64]:
        """The probabilities (n, classes) as they were before temperature scaling."""
        logarithms = np.log(np.maximum(self.probabilities, 1e-12))
        return metrics.softmax(logarithms * self.card.temperature)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `macule evaluate`."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="a folder with model.tflite and model.json")
    add("--data", type=Path, required=True, metavar="DIR", help="a folder a class, or labels.csv")
    add("--column", help="of the image paths in labels.csv (default: the first that fits)")
    add("--split", help="of labels.csv (default: val and test where it has splits)")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="for evaluation.json and .html (default: evaluation)",
    )
    add("--resamples", type=int, default=bootstrap.RESAMPLES, metavar="N", help="of the bootstrap")


def evaluate(options: argparse.Namespace, typed: str) -> tuple[Path, dict[str, Any]]:
    """Evaluate as the options say; *typed* is the command, for the page.

    Returns: the folder written to, and all figures.
    Raises: Refused, ModelUnavailable, BadCard.
    """
    photos = dataset.list_photos(options.data, options.column)
    splits = (options.split,) if options.split else SPLITS
    chosen = [photo for photo in photos if photo.split in splits]
    if options.split and not chosen:
        known = ", ".join(sorted({photo.split for photo in photos if photo.split})) or "none"
        raise ConversionError(f"{options.data} has no split {options.split!r}; it has: {known}.")
    answers = predict_photos(options.folder, chosen or photos, Progress(1))
    found = compute_metrics(answers, options.resamples)
    found |= {
        "data": options.data.name,
        "splits": dict(Counter(photo.split for photo in answers.photos if photo.split)),
        "command": typed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"macule": __version__, "python": platform.python_version()},
    }
    out: Path = options.out or Path("evaluation")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card_builder.to_json(found), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    (out / "evaluation.html").write_text(evaluation_page.page(found, answers), encoding="utf-8")
    return out, found


def predict_photos(folder: str, photos: Sequence[Photo], progress: Progress) -> Predictions:
    """Answer every photo as the service would.

    Raises: Refused where no photo is labelled as the model is, or none can be decoded.
    """
    _, card = local.fetch(folder)
    with native_stderr.held():
        warm = runtime.warm(folder)
    kept, rows, decisions = [], [], []
    for photo in progress.track(photos, len(photos), "asking the model"):
        pixels = dataset.decode_photo(photo, decoding.sides(card.side_px), card.resize)
        if pixels is None:
            continue
        scores = runtime.run(warm, pixels[None])
        kept.append(photo)
        rows.append(scores.probabilities)
        decisions.append(
            classification.decide(card, float(scores.probabilities.max()), scores.distance)
        )
    if not kept:
        raise ConversionError(f"None of the {len(photos)} images can be decoded.")
    place = {label: index for index, label in enumerate(card.labels)}
    truth = np.array([place.get(photo.label, -1) for photo in kept], np.int64)
    if (truth < 0).all():
        found = ", ".join(sorted({photo.label or "(none)" for photo in kept})[:5])
        raise ConversionError(
            f"The images are labelled {found}, the model {', '.join(card.labels[:8])}: name "
            "folders or rows as the labels are."
        )
    return Predictions(
        card,
        kept,
        np.asarray(rows, np.float64),
        np.asarray(decisions, np.str_),
        truth,
        len(photos) - len(kept),
    )


def compute_metrics(answers: Predictions, resamples: int = bootstrap.RESAMPLES) -> dict[str, Any]:
    """All figures of *answers*, those with an interval as {"value", "low", "high"}."""
    known = answers.labelled
    photos, probabilities, truth = known.photos, known.probabilities, known.truth
    labels = list(answers.card.labels)
    column = next((name for name in GROUP_COLUMNS if photos[0].row.get(name)), "")
    groups = [photo.row.get(column, "") or str(photo.path) for photo in photos]

    def some(places: NDArray[np.int64]) -> Mapping[str, float]:
        return scalar_metrics(probabilities[places], truth[places], labels)

    spans = bootstrap.intervals(some, groups, resamples)
    whole = scalar_metrics(probabilities, truth, labels)
    return {
        "model": {
            "name": answers.card.name,
            "version": answers.card.version,
            "sha256": answers.card.sha256,
            "precision": answers.card.precision,
            "temperature": answers.card.temperature,
        },
        "labels": labels,
        "n": len(truth),
        "n_per_label": {label: int((truth == i).sum()) for i, label in enumerate(labels)},
        "broken": answers.broken,
        "resampled_by": column or "image",
        "figures": {
            name: {"value": value, "low": spans[name][0], "high": spans[name][1]}
            for name, value in whole.items()
        },
        "ece_bins": metrics.BINS,
        "ece_before_temperature": metrics.calibration_error(known.uncalibrated, truth),
        "ece_by_chance": metrics.calibration_chance(probabilities),
        "confusion": metrics.confusion_matrix(probabilities.argmax(1), truth, len(labels)).tolist(),
        "decisions": count_decisions(answers),
        "abstention": abstention_metrics(probabilities, truth, known.decisions),
        "risk_coverage": metrics.risk_coverage(probabilities, truth),
        "subgroups": subgroup_metrics(photos, probabilities, truth, labels),
    }


def scalar_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float]:
    """Figures of one number each, of all images."""
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


def count_decisions(answers: Predictions) -> dict[str, dict[str, int]]:
    """Count decisions by label, those of foreign labels too: folders of what is not skin, say."""
    found: dict[str, dict[str, int]] = {}
    for photo, decision in zip(answers.photos, answers.decisions, strict=True):
        row = found.setdefault(photo.label or "(none)", dict.fromkeys(DECISIONS, 0))
        row[str(decision)] += 1
    return found


def abstention_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, decisions: NDArray[np.str_]
) -> dict[str, float]:
    """What the answers that count as `classified` are worth."""
    kept = decisions == "classified"
    right = probabilities.argmax(axis=1) == truth
    return {
        "coverage": float(kept.mean()),
        "accuracy_of_classified": metrics.proportion(right[kept]),
        "accuracy_of_all": float(right.mean()),
        "not_skin": float((decisions == "not_skin").mean()),
    }


def subgroup_metrics(
    photos: Sequence[Photo],
    probabilities: metrics.Floats,
    truth: metrics.Ints,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Figures by sex and by age, as far as the table knows them."""
    found = []
    for trait in SUBGROUP_COLUMNS:
        kinds = np.array([subgroup_name(trait, photo.row.get(trait, "")) for photo in photos])
        if set(kinds) == {"unknown"}:
            continue
        for name in sorted(set(kinds)):
            inside = kinds == name
            row = {"trait": trait, "group": str(name), "n": int(inside.sum())}
            found.append(row | reliable_metrics(probabilities[inside], truth[inside], labels))
    return found


def reliable_metrics(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float | None]:
    """Figures of a subgroup; None for those that rest on too few images to say anything."""
    counts = np.bincount(truth, minlength=len(labels))
    told = scalar_metrics(probabilities, truth, labels) if len(truth) >= MIN_SUBGROUP_IMAGES else {}
    enough = {
        label
        for label, count in zip(labels, counts, strict=True)
        if min(count, len(truth) - count) >= MIN_LABEL_IMAGES
    }
    areas = [told[f"auc/{label}"] for label in labels if told and label in enough]
    return {
        "accuracy": told.get("accuracy"),
        "balanced_accuracy": told.get("balanced_accuracy") if len(enough) == len(labels) else None,
        "mean_auc": metrics.nan_mean(areas) if areas else None,
        **{
            f"sensitivity/{label}": told.get(f"sensitivity/{label}") if label in enough else None
            for label in labels
        },
    }


def subgroup_name(trait: str, text: str) -> str:
    """Name the subgroup of a table's entry; ages in spans of twenty years."""
    if not trait.startswith("age"):
        return text.strip().lower() or "unknown"
    try:
        low = int(float(text)) // 20 * 20
    except ValueError:
        return "unknown"
    return f"{low:02d} to {low + 19}"
