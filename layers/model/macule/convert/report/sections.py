"""The sections of a conversion report below its first screen: what each one says and shows."""

from typing import NamedTuple

import numpy as np

from macule.convert.evaluation import metrics
from macule.convert.report import tables
from macule.convert.report.facts import (
    Evidence,
    arrays,
    chosen_candidate,
    image_count,
    used_synthetic_images,
)
from macule.convert.report.formatting import Table, is_measured, number

MIN_DIFFERENCE = 5e-5  # a difference that four digits do not show
MAX_MATRIX_CLASSES = 10  # classes; with more, the commonest mistakes are listed beside the matrix
NO_LABELS = (
    "No labelled images were given, so accuracy, confusion and calibration could not be measured."
    " Agreement says that two models answer alike, not that either is right."
)
NO_CANDIDATES = "No candidates were given, so nothing can be compared."
NO_PROBABILITIES = "The probabilities were not given, so single answers cannot be compared."
NO_MAPS = "No activation maps were given, so none can be compared."
NO_SCALING = "No scalings were tried against labelled images; the findings say what was assumed."


class Section(NamedTuple):
    """A heading, paragraphs, tables and a list; *key* names its pictures on the page."""

    key: str
    title: str
    texts: list[str]
    tables: list[Table]
    points: list[str]


def make_section(key: str, title: str, *parts: str | Table | list[str] | None) -> Section:
    """Sort *parts* into paragraphs, tables and lists of sentences; None is left out."""
    texts = [part for part in parts if isinstance(part, str)]
    found = [part for part in parts if isinstance(part, Table)]
    points = [sentence for part in parts if isinstance(part, list) for sentence in part]
    return Section(key, title, texts, found, points)


def build_sections(evidence: Evidence) -> list[Section]:
    """Give all sections in their order; one without evidence says so."""
    return [
        candidates(evidence),
        agreement(evidence),
        confusion(evidence),
        calibration(evidence),
        maps(evidence),
        scaling(evidence),
        glossary(evidence),
    ]


def candidates(evidence: Evidence) -> Section:
    if not evidence.get("candidates"):
        return make_section("candidates", "Candidates", NO_CANDIDATES)
    count = image_count(evidence)
    what = "drawn stand-ins" if used_synthetic_images(evidence) else "images"
    text = (
        f"In the order tried, on {'an unknown number of' if count is None else count} {what}."
        " Memory is that of a fresh process with the runtime and the file alone; latency is the"
        " median of one image on the machine that converted."
    )
    found = (tables.answers(evidence), tables.costs(evidence), tables.failure_reasons(evidence))
    return make_section("candidates", "Candidates", text, *found)


def agreement(evidence: Evidence) -> Section:
    before, after, _ = arrays(evidence)
    if before is None:
        return make_section("agreement", "Agreement", NO_PROBABILITIES)
    flips, pairs = tables.changed_answers(evidence)
    return make_section(
        "agreement",
        "Agreement",
        flips,
        change_text(before, after),
        temperature_note(evidence),
        pairs,
    )


def temperature_note(evidence: Evidence) -> str | None:
    """Explain why these changes are not those of the gate, where they are not."""
    before, after, _ = arrays(evidence)
    gated = chosen_candidate(evidence).get("mean_change")
    if (
        not is_measured(gated)
        or abs(metrics.compare_probabilities(after, before)["mean_change"] - gated) < MIN_DIFFERENCE
    ):
        return None
    return (
        f"The gate saw a mean change of {number(gated, 4)}, before the card's temperature; these"
        f" probabilities are as served, with temperature {temperature(evidence)}."
    )


def temperature(evidence: Evidence) -> str:
    return str((evidence.get("card") or {}).get("temperature", "not given"))


def change_text(before: metrics.Floats, after: metrics.Floats) -> str:
    """Say how far single probabilities moved."""
    moved = np.abs(after - before)
    return (
        f"Of {moved.size} probabilities on {len(before)} images, the mean change is"
        f" {number(moved.mean(), 4)}, 95 % change by at most {number(np.quantile(moved, 0.95), 3)},"
        f" and the largest change is {number(moved.max(), 3)}."
    )


def confusion(evidence: Evidence) -> Section:
    before, _, truth = arrays(evidence)
    if truth is None:
        return make_section("confusion", "Right and wrong answers", NO_LABELS)
    mistakes = tables.mistakes(evidence) if before.shape[1] > MAX_MATRIX_CLASSES else None
    found = (tables.classes(evidence), *tables.confusion(evidence), mistakes)
    text = f"n = {len(truth)} labelled images; sensitivities with their 95 % interval (Wilson)."
    text += " In the matrices a row is what was labelled, a column what was answered, and the tint"
    text += " the share of the row."
    return make_section("confusion", "Right and wrong answers", text, *found)


def calibration(evidence: Evidence) -> Section:
    before, after, truth = arrays(evidence)
    if truth is None:
        return make_section("calibration", "Calibration", NO_LABELS)
    caution = (
        f"The card's temperature is {temperature(evidence)}. Where it was fitted on these same"
        " images, the figure after flatters."
    )
    return make_section(
        "calibration", "Calibration", calibration_text(before, after, truth), caution
    )


def calibration_text(before: metrics.Floats, after: metrics.Floats, truth: metrics.Ints) -> str:
    """Say how far confidence is from being right as often as it claims."""
    was, now = (metrics.calibration_error(part, truth) for part in (before, after))
    return (
        f"Expected calibration error (ECE) of the top answer: {number(was)} before and"
        f" {number(now)} after; {metrics.BINS} bins of equal width, n = {len(truth)}."
    )


def maps(evidence: Evidence) -> Section:
    given = evidence.get("maps") or []
    if not given:
        return make_section("maps", "Activation maps", NO_MAPS)
    text = (
        f"{len(given)} images with the maps of both models. A map shows what weighed in an answer,"
        " not whether the answer is right. Likeness is the correlation of both maps where they"
        " speak for the class; 1 is the same."
    )
    return make_section("maps", "Activation maps", text, tables.map_table(given))


def scaling(evidence: Evidence) -> Section:
    found = evidence.get("scaling") or {}
    if not found:
        return make_section("scaling", "Scaling of the pixels", NO_SCALING)
    text = f"Chosen: {found.get('chosen', 'not given')}. {found.get('why') or ''}".strip()
    return make_section("scaling", "Scaling of the pixels", text, tables.scalings(evidence))


def glossary(evidence: Evidence) -> Section:
    found = tables.glossary(evidence)
    return make_section("labels", "Labels", found or "The card gives no labels.")
