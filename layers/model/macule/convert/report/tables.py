"""The tables of the conversion report after the summary."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from macule.convert.evaluation import metrics
from macule.convert.report.facts import Evidence, arrays, labels, size_mb
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


def list_files(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the original and all candidates in the order tried, each with a `title`."""
    original = dict(evidence.get("original") or {})
    tried = [dict(part) for part in evidence.get("candidates") or []]
    for part in tried:
        part["title"] = str(part.get("name")) + (" (chosen)" if part.get("chosen") else "")
    if original:
        original["title"] = original.get("name", "original")
    return [original, *tried] if original else tried


def answers(evidence: Evidence) -> Table:
    """Return the agreement of each file with the original and, if given, its metrics."""
    head = ["file", "gate", "same top answer", "mean change", "largest change"]
    labelled = any(is_measured(part.get("accuracy")) for part in list_files(evidence))
    head += ["accuracy", "balanced accuracy", "mean AUC"] * labelled
    rows = []
    for part in list_files(evidence):
        row = [
            part["title"],
            gate_cell(part),
            percent(part.get("agreement")),
            number(part.get("mean_change"), 4),
            number(part.get("max_change")),
        ]
        if labelled:
            areas = [area for area in (part.get("auc") or {}).values() if is_measured(area)]
            row += [percent(part.get("accuracy")), percent(part.get("balanced_accuracy"))]
            row.append(number(sum(areas) / len(areas)) if areas else NO_VALUE)
        rows.append(row)
    return make_table("Agreement and accuracy of each file", head, rows)


def gate_cell(part: dict[str, Any]) -> Cell:
    """Return whether a candidate passed all gates; the original is the reference."""
    if "chosen" not in part and "failed" not in part:
        return Cell("reference")
    return Cell("✗ failed", tone="bad") if part.get("failed") else Cell("✓ passed", tone="ok")


def costs(evidence: Evidence) -> Table:
    """Return size, latency and memory of each file, with bars."""
    parts = list_files(evidence)
    threads = sorted({int(count) for part in parts for count in part.get("p50_ms") or {}})
    columns = [("size", "MB", [size_mb(part) for part in parts])]
    columns.append(("load", "ms", [part.get("load_ms") for part in parts]))
    for count in threads:
        took = [{int(k): v for k, v in (part.get("p50_ms") or {}).items()} for part in parts]
        name = f"median, {count} thread{'s' * (count > 1)}"
        columns.append((name, "ms", [part.get(count) for part in took]))
    columns.append(("peak memory", "MB", [part.get("peak_mb") for part in parts]))
    cells = [bars(values, name) for _, name, values in columns]
    rows = [[part["title"], *row] for part, *row in zip(parts, *cells, strict=True)]
    return make_table(
        "Size, latency and memory of each file (bars: relative to the maximum of the column)",
        ["file", *(name for name, _, _ in columns)],
        rows,
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
    """Return the reasons of all failed candidates."""
    return [
        f"{part.get('name')} failed: {sentence}."
        for part in evidence.get("candidates") or []
        for sentence in part.get("failed") or []
    ]


def classes(evidence: Evidence) -> Table | None:
    """Return the AUC and sensitivity of each class, before and after."""
    before, after, truth = arrays(evidence)
    if truth is None:
        return None
    names, rows = labels(evidence), []
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
    if truth is None:
        return []
    names = labels(evidence)
    found = []
    for title, part in (("Before: the original", before), ("After: the converted file", after)):
        answer, rows = part.argmax(axis=1), []
        for index, label in enumerate(names):
            given = answer[truth == index]
            counts = [int((given == other).sum()) for other in range(len(names))]
            tints = [Cell(str(c), c / len(given)) if c else Cell("0") for c in counts]
            rows.append([label, *tints])
        caption = f"{title} (n = {len(truth)})"
        found.append(make_table(caption, ["label", *names], rows, "matrix"))
    return found


def mistakes(evidence: Evidence) -> Table | None:
    """Return the most frequent wrong answers, before and after."""
    before, after, truth = arrays(evidence)
    if truth is None:
        return None
    names = labels(evidence)
    was, now = (Counter(zip(truth, p.argmax(axis=1), strict=True)) for p in (before, after))
    pairs = sorted({p for p in was | now if p[0] != p[1]}, key=lambda p: -was[p] - now[p])
    rows = [[names[a], names[b], was[a, b], now[a, b]] for a, b in pairs[:MAX_PAIRS]]
    caption = f"The {len(rows)} most frequent of {len(pairs)} kinds of wrong answers"
    return make_table(caption, ["label", "answer", "before", "after"], rows)


def changed_answers(evidence: Evidence) -> tuple[str, Table | None]:
    """Describe the changed top answers, and list the most frequent ones.

    The evidence must have probabilities.
    """
    before, after, truth = arrays(evidence)
    was, now = before.argmax(axis=1), after.argmax(axis=1)
    other = was != now
    names, count = labels(evidence), int(other.sum())
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
    """Return the results of each scaling on the labelled images."""
    found = evidence.get("scaling") or {}
    if not found.get("table"):
        return None
    rows = []
    for row in found["table"]:
        name = str(row.get("name"))
        name += " (chosen)" if name == found.get("chosen") else ""
        shares = [row.get(key) for key in ("accuracy", "balanced_accuracy", "confidence")]
        rows.append([name, *map(percent, shares)])
    head = ["scaling", "accuracy", "balanced accuracy", "mean confidence"]
    count = found.get("n")
    caption = f"Scalings tried, {'number of images not given' if count is None else f'n = {count}'}"
    return make_table(caption, head, rows)


def glossary(evidence: Evidence) -> Table | None:
    """Return the labels in order, with their names by language."""
    card = evidence.get("card") or {}
    names = card.get("names") or {}
    if not card.get("labels"):
        return None
    rows = []
    for index, label in enumerate(card["labels"]):
        given = [names[k][index] if index < len(names[k]) else NO_VALUE for k in names]
        rows.append([index, label, *given])
    return make_table("Labels, in the order of the outputs", ["index", "label", *names], rows)


def map_table(given: list[Mapping[str, Any]]) -> Table:
    """Return the correlation of the maps of both models, per image."""
    rows = [
        [
            index,
            part.get("label", NO_VALUE),
            *(map_cell(part, key) for key in ("before", "after")),
            r,
        ]
        for index, part in enumerate(given, 1)
        for r in [number(map_correlation(part), 2)]
    ]
    return make_table("Maps", ["image", "class", "before", "after", "correlation"], rows)


def map_cell(part: Mapping[str, Any], key: str) -> str:
    return "no map" if part.get(key) is None else "map"


def map_correlation(part: Mapping[str, Any]) -> float:
    """Return the correlation of the positive parts of two maps; nan if it is undefined."""
    maps = [part.get(key) for key in ("before", "after")]
    if maps[0] is None or maps[1] is None or np.shape(maps[0]) != np.shape(maps[1]):
        return math.nan
    first, second = (np.maximum(np.asarray(found, np.float64), 0).ravel() for found in maps)
    if not first.std() or not second.std():
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
