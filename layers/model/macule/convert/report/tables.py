"""The tables of the conversion report after the summary."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from macule.convert.evaluation import metrics
from macule.convert.report.facts import Evidence, arrays
from macule.convert.report.formatting import (
    NO_VALUE,
    Cell,
    Table,
    is_measured,
    make_table,
    number,
    percent,
    unit,
)

MAX_PAIRS = 12


def list_files(evidence: Evidence) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the title and the figures of the original, then of all candidates as tried."""
    tried = evidence["candidates"]
    titles = [part["name"] + " (chosen)" * part["chosen"] for part in tried]
    return [(evidence["original"]["name"], evidence["original"]), *zip(titles, tried, strict=True)]


def answers(evidence: Evidence) -> Table:
    """Return the agreement of each file with the original and, if given, its metrics."""
    head = ["file", "gate", "same top answer", "mean change", "largest change"]
    labelled = evidence["truth"] is not None
    head += ["accuracy", "balanced accuracy", "mean AUC"] * labelled
    rows = []
    for title, part in list_files(evidence):
        row = [
            title,
            gate_cell(part),
            percent(part.get("agreement")),
            number(part.get("mean_change"), 4),
            number(part.get("max_change")),
        ]
        if labelled:
            row += [percent(part["accuracy"]), percent(part["balanced_accuracy"])]
            row.append(number(metrics.nan_mean([*(part["auc"] or {}).values()])))
        rows.append(row)
    return make_table("Agreement and accuracy of each file", head, rows)


def gate_cell(part: Mapping[str, Any]) -> Cell:
    """Return whether a candidate passed all gates; the original is the reference."""
    if "failed" not in part:
        return Cell("reference")
    return Cell("✗ failed", tone="bad") if part["failed"] else Cell("✓ passed", tone="ok")


def costs(evidence: Evidence) -> Table:
    """Return size, latency and memory of each file, with bars."""
    titles, parts = zip(*list_files(evidence), strict=True)
    columns = {"size": ("MB", [part["size_mb"] for part in parts])}
    columns["load"] = ("ms", [part.get("load_ms") for part in parts])
    latencies = [part.get("p50_ms", {}) for part in parts]
    for count in sorted({count for latency in latencies for count in latency}):
        name = f"median, {count} thread{'s' * (count > 1)}"
        columns[name] = ("ms", [latency.get(count) for latency in latencies])
    columns["peak memory"] = ("MB", [part.get("peak_mb") for part in parts])
    cells = [bars(values, name) for name, values in columns.values()]
    return make_table(
        "Size, latency and memory of each file (bars: relative to the maximum of the column)",
        ["file", *columns],
        [list(row) for row in zip(titles, *cells, strict=True)],
        "bars",
    )


def bars(values: list[Any], name: str) -> list[Cell]:
    """Return the cells of a column, with bars relative to its maximum."""
    top = max((value for value in values if is_measured(value)), default=0)
    return [
        Cell(unit(value, name), value / top if is_measured(value) and top else None)
        for value in values
    ]


def failure_reasons(evidence: Evidence) -> list[str]:
    return [
        f"{part['name']} failed: {sentence}."
        for part in evidence["candidates"]
        for sentence in part["failed"]
    ]


def classes(evidence: Evidence) -> Table:
    """Return the AUC and sensitivity of each class, before and after."""
    before, after, truth = arrays(evidence)
    names, rows = evidence["card"]["labels"], []
    shares = [metrics.sensitivity(p.argmax(axis=1), truth, len(names)) for p in (before, after)]
    for index, label in enumerate(names):
        positive = truth == index
        areas = [metrics.auc(part[:, index], positive) for part in (before, after)]
        count = int(positive.sum())
        found = [interval(share[index], count) for share in shares]
        change = number(areas[1] - areas[0], 3, "+")
        rows.append([label, count, *map(number, areas), change, *found])
    head = ["class", "n", "AUC before", "AUC after", "change"]
    return make_table("Each class", [*head, "sensitivity before", "sensitivity after"], rows)


def interval(share: float, count: int) -> str:
    """Format a share of *count* with its 95 % interval (Wilson)."""
    if not count:
        return NO_VALUE
    low, high = metrics.wilson(share, count)
    return f"{percent(share)} ({low * 100:.0f} to {high * 100:.0f})"


def confusion(evidence: Evidence) -> list[Table]:
    """Return the confusion matrices before and after; the tint is the share of the row."""
    before, after, truth = arrays(evidence)
    names = evidence["card"]["labels"]
    found = []
    for title, part in (("Before: the original", before), ("After: the converted file", after)):
        counts = metrics.confusion_matrix(part.argmax(axis=1), truth, len(names))
        rows = [
            [label, *(Cell(str(c), c / row.sum()) if c else Cell("0") for c in row)]
            for label, row in zip(names, counts, strict=True)
        ]
        caption = f"{title} (n = {len(truth)})"
        found.append(make_table(caption, ["label", *names], rows, "matrix"))
    return found


def mistakes(evidence: Evidence) -> Table:
    """Return the most frequent wrong answers, before and after."""
    before, after, truth = arrays(evidence)
    names = evidence["card"]["labels"]
    was, now = (Counter(zip(truth, p.argmax(axis=1), strict=True)) for p in (before, after))
    pairs = sorted({p for p in was | now if p[0] != p[1]}, key=lambda p: -was[p] - now[p])
    rows = [[names[a], names[b], was[a, b], now[a, b]] for a, b in pairs[:MAX_PAIRS]]
    caption = f"The {len(rows)} most frequent of {len(pairs)} kinds of wrong answers"
    return make_table(caption, ["label", "answer", "before", "after"], rows)


def prediction_sets(measured: Mapping[str, Mapping[str, float]]) -> Table:
    """Return how often each prediction set has the right label, and its size."""
    rows = [
        [f"sets={asked}", percent(row["coverage"]), number(row["mean_labels"], 2)]
        for asked, row in measured.items()
    ]
    head = ["prediction set", "has the right label", "labels on average"]
    return make_table("Prediction sets, out of fold", head, rows)


def changed_answers(evidence: Evidence) -> tuple[str, Table | None]:
    """Describe the changed top answers, and list the most frequent ones."""
    before, after, truth = arrays(evidence)
    was, now = before.argmax(axis=1), after.argmax(axis=1)
    other = was != now
    names, count = evidence["card"]["labels"], int(other.sum())
    text = f"The top answer changed on {count} of {len(was)} images."
    if truth is not None and count:
        better, worse = int((now == truth)[other].sum()), int((was == truth)[other].sum())
        text += (
            f" According to the labels, {better} became right, {worse} became wrong and"
            f" {count - better - worse} stayed wrong."
        )
    pairs = Counter(zip(was[other], now[other], strict=True)).most_common()
    rows = [[names[a], names[b], times] for (a, b), times in pairs[:MAX_PAIRS]]
    caption = f"The {len(rows)} most frequent of {len(pairs)} kinds of changed answers"
    return text, make_table(caption, ["before", "after", "images"], rows) if rows else None


def scalings(evidence: Evidence) -> Table | None:
    """Return the results of each scaling on the labelled images, if there are any."""
    found = evidence["scaling"]
    rows = [
        [
            row["name"] + " (chosen)" * (row["name"] == found["chosen"]),
            *(percent(row[key]) for key in ("accuracy", "balanced_accuracy", "confidence")),
        ]
        for row in found["table"]
    ]
    head = ["scaling", "accuracy", "balanced accuracy", "mean confidence"]
    return make_table(f"Scalings tried, n = {found['n']}", head, rows) if rows else None


def glossary(card: Mapping[str, Any]) -> Table:
    """Return the labels in order, with their names by language."""
    names = card["names"]
    rows = enumerate(zip(card["labels"], *names.values(), strict=True))
    return make_table(
        "Labels, in the order of the outputs",
        ["index", "label", *names],
        [[index, *row] for index, row in rows],
    )


def map_table(given: list[Mapping[str, Any]]) -> Table:
    """Return the correlation of the maps of both models, per image."""
    rows = []
    for index, part in enumerate(given, 1):
        present = ["no map" if part[key] is None else "map" for key in ("before", "after")]
        rows.append([index, part["label"], *present, number(map_correlation(part), 2)])
    return make_table("Maps", ["image", "class", "before", "after", "correlation"], rows)


def map_correlation(part: Mapping[str, Any]) -> float:
    """Return the correlation of the positive parts of two maps; nan if it is undefined."""
    if part["before"] is None:
        return math.nan
    first, second = (
        np.maximum(np.asarray(part[key], np.float64), 0).ravel() for key in ("before", "after")
    )
    if not first.std() or not second.std():
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
