"""The sections of the conversion report after the summary."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from macule.convert.evaluation import metrics
from macule.convert.report import facts, tables
from macule.convert.report.facts import (
    Evidence,
    arrays,
    chosen_candidate,
    image_count,
    used_synthetic_images,
)
from macule.convert.report.formatting import Table, is_measured, number, percent

MIN_DIFFERENCE = 5e-5  # smaller differences are not visible with four digits
MAX_MATRIX_CLASSES = 10  # with more classes, the most frequent errors are listed too
NO_LABELS = (
    "No labelled images were given, so accuracy, confusion and calibration could not be measured."
    " Agreement means that both models give the same answers, not that these are correct."
)
NOT_CALIBRATED = (
    "The temperature is not fitted: there are too few labelled images, or they are of too few"
    " patients or lesions."
)
NO_MAPS = "No activation maps were given, so none can be compared."


class Section(NamedTuple):
    """A heading, paragraphs, tables and a list; *key* is the key of its plots."""

    key: str
    title: str
    texts: list[str]
    tables: list[Table]
    points: list[str]


def make_section(key: str, title: str, *parts: str | Table | list[str] | None) -> Section:
    """Sort *parts* into paragraphs, tables and list items; None is skipped."""
    texts = [part for part in parts if isinstance(part, str)]
    found = [part for part in parts if isinstance(part, Table)]
    points = [sentence for part in parts if isinstance(part, list) for sentence in part]
    return Section(key, title, texts, found, points)


def build_sections(evidence: Evidence) -> list[Section]:
    found = evidence["scaling"]
    text = f"Chosen: {found['chosen']}. {found['why']}"
    return [
        candidates(evidence),
        agreement(evidence),
        confusion(evidence),
        calibration(evidence),
        maps(evidence),
        make_section("scaling", "Scaling of the pixels", text, tables.scalings(evidence)),
        make_section("labels", "Labels", tables.glossary(evidence["card"])),
    ]


def candidates(evidence: Evidence) -> Section:
    what = "synthetic images" if used_synthetic_images(evidence) else "images"
    text = (
        f"In the order tried, on {image_count(evidence)} {what}."
        " Memory is that of a new process with only the runtime and the file; latency is the"
        " median for one image on the machine of the conversion."
    )
    found = (tables.answers(evidence), tables.costs(evidence), tables.failure_reasons(evidence))
    return make_section("candidates", "Candidates", text, *found)


def agreement(evidence: Evidence) -> Section:
    before, after, _ = arrays(evidence)
    flips, pairs = tables.changed_answers(evidence)
    texts = (flips, change_text(before, after), temperature_note(evidence))
    return make_section("agreement", "Agreement", *texts, pairs)


def temperature_note(evidence: Evidence) -> str | None:
    """Explain why these changes differ from those of the gate, if they do."""
    before, after, _ = arrays(evidence)
    gated = chosen_candidate(evidence)["mean_change"]
    served = metrics.compare_probabilities(after, before)["mean_change"]
    if not is_measured(gated) or abs(served - gated) < MIN_DIFFERENCE:
        return None
    return (
        f"The gate measured a mean change of {number(gated, 4)}, without the card's temperature;"
        " these probabilities are those of the service, with temperature"
        f" {evidence['card']['temperature']}."
    )


def change_text(before: metrics.Floats, after: metrics.Floats) -> str:
    moved = np.abs(after - before)
    return (
        f"Of {moved.size} probabilities on {len(before)} images, the mean change is"
        f" {number(moved.mean(), 4)}, 95 % change by at most {number(np.quantile(moved, 0.95), 3)},"
        f" and the largest change is {number(moved.max(), 3)}."
    )


def confusion(evidence: Evidence) -> Section:
    before, _, truth = arrays(evidence)
    if truth is None:
        return make_section("confusion", "Confusion matrix", NO_LABELS)
    mistakes = tables.mistakes(evidence) if before.shape[1] > MAX_MATRIX_CLASSES else None
    found = (tables.classes(evidence), *tables.confusion(evidence), mistakes)
    text = (
        f"n = {len(truth)} labelled images; sensitivities with their 95 % interval (Wilson)."
        " In the matrices, rows are labels and columns are answers; the tint is the share of the"
        " row."
    )
    return make_section("confusion", "Confusion matrix", text, *found)


def calibration(evidence: Evidence) -> Section:
    before, after, truth = arrays(evidence)
    if truth is None:
        return make_section("calibration", "Calibration", NO_LABELS)
    text, measured = calibration_text(before, after, truth), evidence["card"].get("metrics", {})
    if "guarantee" not in measured:
        return make_section("calibration", "Calibration", text, NOT_CALIBRATED)
    fitted = (
        f"With the card's temperature, {evidence['card']['temperature']}, the error is"
        f" {number(measured['ece_after'])}, out of fold: the images were divided into"
        f" {measured['folds']} folds by {measured['grouped_by']}, and each fold was calibrated with"
        " values fitted on the others. The card's own values are fitted on all images."
    )
    sets = tables.prediction_sets(measured["prediction_sets"])
    return make_section("calibration", "Calibration", text, fitted, guarantee_text(measured), sets)


def guarantee_text(measured: Mapping[str, Any]) -> str:
    promised = measured["guarantee"]
    return (
        f"Of what is answered, at least {facts.at_least(promised)} is right, with"
        f" {facts.confidence(promised)} confidence; out of fold, for images like these."
        f" {percent(promised['coverage'])} of {promised['n']} images are answered, and"
        f" {percent(promised['accuracy'])} of these answers are right."
    )


def calibration_text(before: metrics.Floats, after: metrics.Floats, truth: metrics.Ints) -> str:
    was, now = (metrics.calibration_error(part, truth) for part in (before, after))
    return (
        f"Expected calibration error (ECE) of the top answer: {number(was)} before and"
        f" {number(now)} after; {metrics.BINS} bins of equal width, n = {len(truth)}."
    )


def maps(evidence: Evidence) -> Section:
    given = evidence["maps"]
    if not given:
        return make_section("maps", "Activation maps", NO_MAPS)
    text = (
        f"{len(given)} images with the maps of both models. A map shows what influenced an answer,"
        " not whether the answer is correct. The correlation is that of the positive parts of both"
        " maps; 1 means equal."
    )
    return make_section("maps", "Activation maps", text, tables.map_table(given))
