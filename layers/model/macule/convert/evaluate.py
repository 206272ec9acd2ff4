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
from macule.convert.errors import Refused
from macule.convert.evaluation import bootstrap, dataset, metrics
from macule.convert.evaluation.dataset import Photo
from macule.convert.progress import Progress
from macule.convert.report import evaluation_page
from macule.inference import classification, decoding, native_stderr, runtime
from macule.registry import local, model_card

SPLITS = ("val", "test")
DECISIONS = ("classified", "inconclusive", "not_skin")
GROUPS = ("patient", "patient_id", "lesion", "lesion_id")  # columns, the first that is there
TRAITS = ("sex", "age_approx", "age")
LEAST_OF_A_KIND = 10  # images of a subgroup below which its figures say nothing
LEAST_OF_A_LABEL = 5  # likewise of one label in it, and of all others


class Answers(NamedTuple):
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
    def labelled(self) -> "Answers":
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
    add("--resamples", type=int, default=bootstrap.TIMES, metavar="N", help="of the bootstrap")


def evaluate(options: argparse.Namespace, typed: str) -> tuple[Path, dict[str, Any]]:
    """Evaluate as the options say; *typed* is the command, for the page.

    Returns: the folder written to, and all figures.
    Raises: Refused, ModelUnavailable, BadCard.
    """
    photos = dataset.read(options.data, options.column)
    splits = (options.split,) if options.split else SPLITS
    chosen = [photo for photo in photos if photo.split in splits]
    if options.split and not chosen:
        known = ", ".join(sorted({photo.split for photo in photos if photo.split})) or "none"
        raise Refused(f"{options.data} has no split {options.split!r}; it has: {known}.")
    answers = ask(options.folder, chosen or photos, Progress(1))
    found = figures(answers, options.resamples)
    found |= {
        "data": options.data.name,
        "splits": dict(Counter(photo.split for photo in answers.photos if photo.split)),
        "command": typed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"macule": __version__, "python": platform.python_version()},
    }
    out: Path = options.out or Path("evaluation")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card_builder.tidy(found), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    (out / "evaluation.html").write_text(evaluation_page.page(found, answers), encoding="utf-8")
    return out, found


def ask(folder: str, photos: Sequence[Photo], progress: Progress) -> Answers:
    """Answer every photo as the service would.

    Raises: Refused where no photo is labelled as the model is, or none can be decoded.
    """
    _, card = local.find(folder)
    with native_stderr.filtered():
        warm = runtime.get_or_load(folder)
    kept, rows, decisions = [], [], []
    for photo in progress.track(photos, len(photos), "asking the model"):
        pixels = dataset.pixels_of(photo, decoding.sides(card.side_px), card.resize)
        if pixels is None:
            continue
        scores = runtime.run(warm, pixels[None])
        kept.append(photo)
        rows.append(scores.probabilities)
        decisions.append(
            classification.decide(card, float(scores.probabilities.max()), scores.distance)
        )
    if not kept:
        raise Refused(f"None of the {len(photos)} images can be decoded.")
    place = {label: index for index, label in enumerate(card.labels)}
    truth = np.array([place.get(photo.label, -1) for photo in kept], np.int64)
    if (truth < 0).all():
        found = ", ".join(sorted({photo.label or "(none)" for photo in kept})[:5])
        raise Refused(
            f"The images are labelled {found}, the model {', '.join(card.labels[:8])}: name "
            "folders or rows as the labels are."
        )
    return Answers(
        card,
        kept,
        np.asarray(rows, np.float64),
        np.asarray(decisions, np.str_),
        truth,
        len(photos) - len(kept),
    )


def figures(answers: Answers, resamples: int = bootstrap.TIMES) -> dict[str, Any]:
    """All figures of *answers*, those with an interval as {"value", "low", "high"}."""
    known = answers.labelled
    photos, probabilities, truth = known.photos, known.probabilities, known.truth
    labels = list(answers.card.labels)
    column = next((name for name in GROUPS if photos[0].row.get(name)), "")
    groups = [photo.row.get(column, "") or str(photo.path) for photo in photos]

    def some(places: NDArray[np.int64]) -> Mapping[str, float]:
        return scalars(probabilities[places], truth[places], labels)

    spans = bootstrap.intervals(some, groups, resamples)
    whole = scalars(probabilities, truth, labels)
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
        "confusion": metrics.confusion(probabilities.argmax(1), truth, len(labels)).tolist(),
        "decisions": decided(answers),
        "abstention": abstained(probabilities, truth, known.decisions),
        "risk_coverage": metrics.risks(probabilities, truth),
        "subgroups": subgroups(photos, probabilities, truth, labels),
    }


def scalars(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float]:
    """Figures of one number each, of all images."""
    rows = metrics.by_class(probabilities, truth)
    found = {
        "mean_auc": metrics.mean([row["auc"] for row in rows]),
        "accuracy": metrics.share(probabilities.argmax(axis=1) == truth),
        "balanced_accuracy": metrics.mean([row["sensitivity"] for row in rows]),
        "ece": metrics.calibration_error(probabilities, truth),
    }
    for label, row in zip(labels, rows, strict=True):
        found |= {f"{name}/{label}": value for name, value in row.items()}
    return found


def decided(answers: Answers) -> dict[str, dict[str, int]]:
    """Count decisions by label, those of foreign labels too: folders of what is not skin, say."""
    found: dict[str, dict[str, int]] = {}
    for photo, decision in zip(answers.photos, answers.decisions, strict=True):
        row = found.setdefault(photo.label or "(none)", dict.fromkeys(DECISIONS, 0))
        row[str(decision)] += 1
    return found


def abstained(
    probabilities: metrics.Floats, truth: metrics.Ints, decisions: NDArray[np.str_]
) -> dict[str, float]:
    """What the answers that count as `classified` are worth."""
    kept = decisions == "classified"
    right = probabilities.argmax(axis=1) == truth
    return {
        "coverage": float(kept.mean()),
        "accuracy_of_classified": metrics.share(right[kept]),
        "accuracy_of_all": float(right.mean()),
        "not_skin": float((decisions == "not_skin").mean()),
    }


def subgroups(
    photos: Sequence[Photo],
    probabilities: metrics.Floats,
    truth: metrics.Ints,
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Figures by sex and by age, as far as the table knows them."""
    found = []
    for trait in TRAITS:
        kinds = np.array([kind(trait, photo.row.get(trait, "")) for photo in photos])
        if set(kinds) == {"unknown"}:
            continue
        for name in sorted(set(kinds)):
            inside = kinds == name
            row = {"trait": trait, "group": str(name), "n": int(inside.sum())}
            found.append(row | spoken(probabilities[inside], truth[inside], labels))
    return found


def spoken(
    probabilities: metrics.Floats, truth: metrics.Ints, labels: Sequence[str]
) -> dict[str, float | None]:
    """Figures of a subgroup; None for those that rest on too few images to say anything."""
    counts = np.bincount(truth, minlength=len(labels))
    told = scalars(probabilities, truth, labels) if len(truth) >= LEAST_OF_A_KIND else {}
    enough = {
        label
        for label, count in zip(labels, counts, strict=True)
        if min(count, len(truth) - count) >= LEAST_OF_A_LABEL
    }
    areas = [told[f"auc/{label}"] for label in labels if told and label in enough]
    return {
        "accuracy": told.get("accuracy"),
        "balanced_accuracy": told.get("balanced_accuracy") if len(enough) == len(labels) else None,
        "mean_auc": metrics.mean(areas) if areas else None,
        **{
            f"sensitivity/{label}": told.get(f"sensitivity/{label}") if label in enough else None
            for label in labels
        },
    }


def kind(trait: str, text: str) -> str:
    """Name the subgroup of a table's entry; ages in spans of twenty years."""
    if not trait.startswith("age"):
        return text.strip().lower() or "unknown"
    try:
        low = int(float(text)) // 20 * 20
    except ValueError:
        return "unknown"
    return f"{low:02d} to {low + 19}"
