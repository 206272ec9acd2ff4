"""The summary of a conversion: verdict, gates, original and converted model."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from macule.convert.evaluation import metrics
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

Evidence = Mapping[str, Any]
TOLERANCE = 1e-9  # as in acceptance.py: a figure at the limit passes
LEVELS = ("error", "warning", "info")
DISCLAIMER = (
    "Research demonstration, not a medical device. The figures compare two model files on the"
    " images named here; they are not a diagnosis and do not apply to other images."
)


class Summary(NamedTuple):
    """The first part of the report; `tone` of the verdict is ok, warn or bad."""

    title: str
    disclaimer: str
    tone: str
    verdict: str
    reasons: list[str]
    figures: Table
    checks: Table
    findings: list[tuple[str, str]]  # level and text, errors first
    source: Table
    card: Table
    date: str
    command: str
    versions: Table


def summarise(evidence: Evidence) -> Summary:
    """Summarise the evidence."""
    return Summary(
        str(evidence.get("title") or "Conversion report"),
        DISCLAIMER,
        *verdict(evidence),
        make_table("Key figures", ["figure", "value", "reference"], key_figures(evidence), "words"),
        gate_table(evidence),
        findings(evidence),
        make_table("Original model", ["", "original"], source_rows(evidence), "words"),
        make_table("Converted model", ["", "converted"], card_rows(evidence), "words"),
        str(evidence.get("date") or "date not given"),
        str(evidence.get("command") or "(command not given)"),
        make_table("Versions", ["", "version"], versions(evidence), "words"),
    )


def size_mb(part: Mapping[str, Any]) -> float | None:
    """Return the size of a model in MB (2**20 bytes), from its bytes or size_mb."""
    if part.get("bytes") is not None:
        return float(part["bytes"]) / 2**20
    return part.get("size_mb")


def chosen_candidate(evidence: Evidence) -> Mapping[str, Any]:
    """Return the chosen candidate; empty if there is none."""
    return next((c for c in evidence.get("candidates") or [] if c.get("chosen")), {})


def arrays(evidence: Evidence) -> tuple[Any, Any, Any]:
    """Return probabilities before and after (n, classes) and the truth (n,); None if absent."""
    found = evidence.get("probabilities") or {}
    before, after = (found.get(key) for key in ("before", "after"))
    truth = evidence.get("truth")
    if before is None or after is None or not len(before):
        return None, None, None
    return np.asarray(before), np.asarray(after), None if truth is None else np.asarray(truth)


def labels(evidence: Evidence) -> list[str]:
    """Return the labels of the card, or their indices."""
    before, _, _ = arrays(evidence)
    count = 0 if before is None else before.shape[1]
    return list((evidence.get("card") or {}).get("labels") or map(str, range(count)))


def image_count(evidence: Evidence) -> int | None:
    """Return the number of images on which the models were compared."""
    before, _, _ = arrays(evidence)
    if before is not None:
        return len(before)
    count: int | None = (evidence.get("images") or {}).get("evaluation")
    return count


def used_synthetic_images(evidence: Evidence) -> bool:
    """Return whether the files were compared on synthetic images."""
    images = evidence.get("images") or {}
    return bool(images) and not images.get("calibration") and not images.get("evaluation")


def agreement_text(evidence: Evidence) -> str:
    """Format the agreement as a number of images, with its 95 % interval (Wilson)."""
    share, count = chosen_candidate(evidence).get("agreement"), image_count(evidence)
    if not is_measured(share):
        return "not measured"
    if not count:
        return "number of images not given"
    low, high = metrics.wilson(share, count)
    span = f"95 % interval {low * 100:.0f} to {high * 100:.0f} %"
    return (
        f"{round(share * count)} of {count} synthetic images, which prove nothing"
        if used_synthetic_images(evidence)
        else f"{round(share * count)} of {count} images; {span}"
    )


def greatest_loss(evidence: Evidence) -> tuple[str, float] | None:
    """Return the metric with the greatest loss: balanced accuracy or the AUC of a class."""
    before, after = evidence.get("original") or {}, chosen_candidate(evidence)
    found = {"balanced accuracy": (before.get("balanced_accuracy"), after.get("balanced_accuracy"))}
    for label, auc in (before.get("auc") or {}).items():
        found[f"AUC of {label}"] = (auc, (after.get("auc") or {}).get(label))
    losses = {what: a - b for what, (a, b) in found.items() if is_measured(a) and is_measured(b)}
    return max(losses.items(), key=lambda item: item[1]) if losses else None


def gate_table(evidence: Evidence) -> Table:
    """Return the table of the gates: result, measured figure and limit."""
    gate, chosen = evidence.get("gate") or {}, chosen_candidate(evidence)
    greatest = greatest_loss(evidence)
    limit = gate.get("limit_mb")
    agreement = agreement_text(evidence)
    rows = [
        [
            "same top answer",
            gate_result(chosen.get("agreement"), gate.get("agreement"), minimum=True),
            f"{percent(chosen.get('agreement'))} ({agreement})" if chosen else NO_VALUE,
            f"at least {percent(gate.get('agreement'))}",
        ],
        [
            "mean change of a probability",
            gate_result(chosen.get("mean_change"), gate.get("mean_change")),
            number(chosen.get("mean_change"), 4),
            f"at most {number(gate.get('mean_change'), 4)}",
        ],
        [
            "greatest loss of a metric",
            gate_result(greatest and greatest[1], gate.get("lost")),
            f"{number(greatest[1], 4)} ({greatest[0]})" if greatest else "no labelled images",
            f"at most {number(gate.get('lost'), 4)}",
        ],
        [
            "peak memory of a bare process",
            gate_result(chosen.get("peak_mb"), limit) if is_measured(limit) else Cell("· no limit"),
            unit(chosen.get("peak_mb"), "MB"),
            f"at most {unit(limit, 'MB')}" if is_measured(limit) else "no limit given",
        ],
    ]
    return make_table("Gates", ["gate", "result", "measured", "limit"], rows, "words")


def gate_result(value: Any, limit: Any, minimum: bool = False) -> Cell:
    """Compare a figure with its limit, as a word and a symbol."""
    if not is_measured(value) or not is_measured(limit):
        return Cell("! not measured", tone="warn")
    passed = value >= limit - TOLERANCE if minimum else value <= limit + TOLERANCE
    return Cell("✓ passed", tone="ok") if passed else Cell("✗ failed", tone="bad")


def verdict(evidence: Evidence) -> tuple[str, str, list[str]]:
    """Return a tone, the verdict in one sentence, and its caveats."""
    chosen, reasons = chosen_candidate(evidence), caveats(evidence)
    if not evidence.get("candidates"):
        return "bad", "No converted file was measured.", reasons
    if not chosen:
        return "bad", "No candidate was chosen: see the reasons below.", reasons
    name, tones = chosen.get("name", "the file"), [row[1].tone for row in gate_table(evidence).rows]
    if chosen.get("failed") or "bad" in tones:
        failed = [str(sentence) for sentence in chosen.get("failed") or []]
        return "bad", f"“{name}” was chosen although it fails a gate.", failed + reasons
    serious = any(level == "error" for level, _ in findings(evidence))
    tone = "bad" if serious else "warn" if reasons else "ok"
    gates = "all gates that could be measured" if "warn" in tones else "all gates"
    return tone, f"“{name}” passes {gates}.", reasons


def caveats(evidence: Evidence) -> list[str]:
    """Return what limits the verdict."""
    levels = Counter(level for level, _ in findings(evidence))
    reasons = [
        f"{levels[level]} {level}{'s' * (levels[level] > 1)} below: read before use."
        for level in ("error", "warning")
        if levels[level]
    ]
    missed = [row[0].text for row in gate_table(evidence).rows if row[1].tone == "warn"]
    if missed and chosen_candidate(evidence):
        reasons.append(f"Not measured: {', '.join(missed)}.")
    images, count = evidence.get("images") or {}, image_count(evidence)
    if used_synthetic_images(evidence):
        reasons.append(
            "No images were given: all figures come from synthetic images and prove nothing."
        )
    elif count and images.get("calibration") and images.get("evaluation") == 0:
        reasons.append("Compared on the calibration images; other images can change more.")
    required = (evidence.get("gate") or {}).get("agreement")
    if (
        count
        and not used_synthetic_images(evidence)
        and is_measured(required)
        and 1 / count > 1 - required + TOLERANCE
    ):
        reasons.append(f"Only {count} images were compared: one changed answer fails the gate.")
    return reasons


def findings(evidence: Evidence) -> list[tuple[str, str]]:
    """Return the level and text of each finding, errors first."""
    found = [(str(f.get("level")), str(f.get("text"))) for f in evidence.get("findings") or []]
    normalised = [(level if level in LEVELS else "warning", text) for level, text in found]
    return sorted(normalised, key=lambda finding: LEVELS.index(finding[0]))


def key_figures(evidence: Evidence) -> list[list[Any]]:
    """Return the key figures: name, value and reference."""
    chosen, original = chosen_candidate(evidence), evidence.get("original") or {}
    source, count = evidence.get("source") or {}, image_count(evidence)
    before = size_mb(original) or source.get("size_mb")
    after = size_mb(chosen) or size_mb(evidence.get("card") or {})
    smaller = f", {before / after:.1f}× smaller" if before and after else ""
    precision = chosen.get("precision") or "precision not given"
    threads = {int(k): v for k, v in (chosen.get("p50_ms") or {}).items()}
    first, *more = sorted(threads) or [1]
    accuracy, original_accuracy = chosen.get("balanced_accuracy"), original.get("balanced_accuracy")
    agreement = agreement_text(evidence)
    reference = f"before: {percent(original_accuracy)}, n = {NO_VALUE if count is None else count}"
    more_threads = "".join(f"; {unit(threads[k], 'ms')} with {k}" for k in more)
    latency = (
        f"median, {first} thread{'s' * (first > 1)}{more_threads}" if threads else "not measured"
    )
    return [
        ["Size", unit(after, "MB"), f"{precision}; {unit(before, 'MB')} before{smaller}"],
        ["Same top answer", percent(chosen.get("agreement")), agreement],
        [
            "Balanced accuracy",
            percent(accuracy),
            reference if is_measured(accuracy) else "no labelled images",
        ],
        ["Latency", unit(threads.get(first), "ms"), latency],
        ["Peak memory", unit(chosen.get("peak_mb"), "MB"), "only runtime and file"],
    ]


def source_rows(evidence: Evidence) -> list[list[str]]:
    """Return the rows of the original model."""
    source, images = evidence.get("source") or {}, evidence.get("images") or {}
    found = "none found" if "inside" in source else "not given"
    inside = ", ".join(map(str, source.get("inside") or [])) or found
    counts = [f"{images[k]} for {k}" for k in ("calibration", "evaluation") if k in images]
    return [
        ["file", str(source.get("file", "not given"))],
        ["kind", str(source.get("kind", "not given"))],
        ["size", unit(source.get("size_mb"), "MB")],
        ["scaling layers", inside],
        ["output", str(source.get("output", "not given"))],
        ["images", ", ".join(counts) or "none given"],
        *([["note", str(images["note"])]] if images.get("note") else []),
    ]


def card_rows(evidence: Evidence) -> list[list[str]]:
    """Return the rows of the converted model, from its card."""
    card = evidence.get("card") or {}
    if not card:
        return [["card", "not given"]]
    side, cam = card.get("side_px"), card.get("cam") or {}
    shape = f"{side[0]} × {side[1]}" if isinstance(side, list | tuple) else f"{side} × {side}"
    scaling = card.get("scaling") or {}
    size = size_mb(card)
    maps = "equal to Grad-CAM" if cam.get("faithful") else "not equal to Grad-CAM"
    errors = ", ".join(
        f"{word} {cam[key]:.2g}"
        for key, word in (("max_error", "largest error"), ("correlation", "correlation"))
        if is_measured(cam.get(key))
    )
    return [
        ["name", str(card.get("name", "not given"))],
        ["precision", str(card.get("precision", "not given"))],
        ["size", f"{unit(size, 'MB')} ({card.get('bytes', 0):,} bytes)" if size else NO_VALUE],
        ["sha256", str(card.get("sha256", "not given"))],
        ["image", f"{shape} px (height × width), {card.get('resize')}, {card.get('channels')}"],
        ["scaling", f"(pixel − {scaling.get('mean')}) / {scaling.get('std')}"],
        ["temperature", str(card.get("temperature", "not given"))],
        [
            "thresholds",
            ", ".join(f"{k} {v}" for k, v in (card.get("thresholds") or {}).items()) or "none",
        ],
        [
            "activation maps",
            "; ".join(
                filter(None, [maps, cam.get("head"), errors, cam.get("note"), cam.get("why")])
            ),
        ],
    ]


def versions(evidence: Evidence) -> list[list[Any]]:
    """Return the date and the package versions."""
    found = [[name, version] for name, version in (evidence.get("versions") or {}).items()]
    return [["date", evidence.get("date") or "not given"], *found]
