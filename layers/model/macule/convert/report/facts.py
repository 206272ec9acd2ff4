"""The summary of a conversion: verdict, gates, original and converted model."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from macule.convert.evaluation import metrics
from macule.convert.report.formatting import (
    Cell,
    Table,
    is_measured,
    make_table,
    number,
    percent,
    unit,
)

Evidence = Mapping[str, Any]  # as `evidence.collect` returns it
TOLERANCE = 1e-9  # as in selection.py: a figure at the limit passes
DISCLAIMER = (
    "Research demonstration, not a medical device. The figures compare two model files on the"
    " images named here; they are not a diagnosis and do not apply to other images."
)


class Summary(NamedTuple):
    """The first part of the report; `tone` of the verdict is ok, warn or bad."""

    tone: str
    verdict: str
    reasons: list[str]
    figures: Table
    checks: Table
    findings: list[tuple[str, str]]  # level and text, warnings first
    source: Table
    card: Table
    versions: Table


def summarise(evidence: Evidence) -> Summary:
    versions = [["date", evidence["date"]], *evidence["versions"].items()]
    return Summary(
        *verdict(evidence),
        make_table("Key figures", ["figure", "value", "reference"], key_figures(evidence), "words"),
        gate_table(evidence),
        findings(evidence),
        make_table("Original model", ["", "original"], source_rows(evidence), "words"),
        make_table("Converted model", ["", "converted"], card_rows(evidence["card"]), "words"),
        make_table("Versions", ["", "version"], versions, "words"),
    )


def chosen_candidate(evidence: Evidence) -> Mapping[str, Any]:
    return next(candidate for candidate in evidence["candidates"] if candidate["chosen"])


def arrays(evidence: Evidence) -> tuple[Any, Any, Any]:
    """Return probabilities before and after (n, classes), and the truth (n,) or None."""
    found = evidence["probabilities"]
    return found["before"], found["after"], evidence["truth"]


def image_count(evidence: Evidence) -> int:
    """Return the number of images on which the models were compared."""
    return len(evidence["probabilities"]["before"])


def used_synthetic_images(evidence: Evidence) -> bool:
    """Return whether the files were compared on synthetic images."""
    return not (evidence["images"]["calibration"] or evidence["images"]["evaluation"])


def agreement_text(evidence: Evidence) -> str:
    """Format the agreement as a number of images, with its 95 % interval (Wilson)."""
    share, count = chosen_candidate(evidence)["agreement"], image_count(evidence)
    text = f"{round(share * count)} of {count}"
    if used_synthetic_images(evidence):
        return f"{text} synthetic images, which prove nothing"
    low, high = metrics.wilson(share, count)
    return f"{text} images; 95 % interval {low * 100:.0f} to {high * 100:.0f} %"


def greatest_loss(evidence: Evidence) -> tuple[str, float] | None:
    """Return the metric with the greatest loss: balanced accuracy or the AUC of a class."""
    before, after = evidence["original"], chosen_candidate(evidence)
    if evidence["truth"] is None:
        return None
    losses = {"balanced accuracy": before["balanced_accuracy"] - after["balanced_accuracy"]}
    for label, auc in before["auc"].items():
        losses[f"AUC of {label}"] = auc - after["auc"][label]
    measured = [item for item in losses.items() if is_measured(item[1])]
    return max(measured, key=lambda item: item[1])


def gate_table(evidence: Evidence) -> Table:
    """Return the table of the gates: result, measured figure and limit."""
    gate, chosen = evidence["gate"], chosen_candidate(evidence)
    greatest, limit = greatest_loss(evidence), gate["limit_mb"]
    rows = [
        [
            "same top answer",
            gate_result(chosen["agreement"], gate["agreement"], minimum=True),
            f"{percent(chosen['agreement'])} ({agreement_text(evidence)})",
            f"at least {percent(gate['agreement'])}",
        ],
        [
            "mean change of a probability",
            gate_result(chosen["mean_change"], gate["mean_change"]),
            number(chosen["mean_change"], 4),
            f"at most {number(gate['mean_change'], 4)}",
        ],
        [
            "greatest loss of a metric",
            gate_result(greatest and greatest[1], gate["lost"]),
            f"{number(greatest[1], 4)} ({greatest[0]})" if greatest else "no labelled images",
            f"at most {number(gate['lost'], 4)}",
        ],
        [
            "peak memory of a bare process",
            Cell("· no limit") if limit is None else gate_result(chosen["peak_mb"], limit),
            unit(chosen["peak_mb"], "MB"),
            "no limit given" if limit is None else f"at most {unit(limit, 'MB')}",
        ],
    ]
    return make_table("Gates", ["gate", "result", "measured", "limit"], rows, "words")


def gate_result(value: float | None, limit: float, minimum: bool = False) -> Cell:
    """Compare a figure with its limit, as a word and a symbol."""
    if not is_measured(value):
        return Cell("! not measured", tone="warn")
    passed = value >= limit - TOLERANCE if minimum else value <= limit + TOLERANCE
    return Cell("✓ passed", tone="ok") if passed else Cell("✗ failed", tone="bad")


def verdict(evidence: Evidence) -> tuple[str, str, list[str]]:
    """Return a tone, the verdict in one sentence, and its caveats."""
    chosen, reasons = chosen_candidate(evidence), caveats(evidence)
    name, tones = chosen["name"], [row[1].tone for row in gate_table(evidence).rows]
    if chosen["failed"] or "bad" in tones:
        sentence = f"“{name}” was chosen although it fails a gate."
        return "bad", sentence, [*chosen["failed"], *reasons]
    gates = "all gates that could be measured" if "warn" in tones else "all gates"
    return "warn" if reasons else "ok", f"“{name}” passes {gates}.", reasons


def caveats(evidence: Evidence) -> list[str]:
    """Return what limits the verdict."""
    reasons = []
    warnings = sum(level == "warning" for level, _ in findings(evidence))
    if warnings:
        reasons.append(f"{warnings} warning{'s' * (warnings > 1)} below: read before use.")
    missed = [row[0].text for row in gate_table(evidence).rows if row[1].tone == "warn"]
    if missed:
        reasons.append(f"Not measured: {', '.join(missed)}.")
    if used_synthetic_images(evidence):
        text = "No images were given: all figures come from synthetic images and prove nothing."
        return [*reasons, text]
    if not evidence["images"]["evaluation"]:
        reasons.append("Compared on the calibration images; other images can change more.")
    count = image_count(evidence)
    if 1 / count > 1 - evidence["gate"]["agreement"] + TOLERANCE:
        reasons.append(f"Only {count} images were compared: one changed answer fails the gate.")
    return reasons


def findings(evidence: Evidence) -> list[tuple[str, str]]:
    """Return the level and text of each finding, warnings first."""
    found = [(finding["level"], finding["text"]) for finding in evidence["findings"]]
    return sorted(found, key=lambda finding: finding[0] != "warning")


def key_figures(evidence: Evidence) -> list[list[Any]]:
    chosen, original = chosen_candidate(evidence), evidence["original"]
    before, after = original["size_mb"], chosen["size_mb"]
    smaller = f", {before / after:.1f}× smaller" if before else ""
    first, *more = sorted(chosen["p50_ms"].items())
    latency = f"median, {first[0]} thread{'s' * (first[0] > 1)}"
    latency += "".join(f"; {unit(p50_ms, 'ms')} with {threads}" for threads, p50_ms in more)
    accuracy = chosen["balanced_accuracy"]
    reference = f"before: {percent(original['balanced_accuracy'])}, n = {image_count(evidence)}"
    promised = evidence["card"].get("metrics", {}).get("guarantee")
    rows = [
        ["Size", unit(after, "MB"), f"{chosen['precision']}; {unit(before, 'MB')} before{smaller}"],
        ["Same top answer", percent(chosen["agreement"]), agreement_text(evidence)],
        [
            "Balanced accuracy",
            percent(accuracy),
            reference if is_measured(accuracy) else "no labelled images",
        ],
        ["Latency", unit(first[1], "ms"), latency],
        ["Peak memory", unit(chosen["peak_mb"], "MB"), "only runtime and file"],
    ]
    if promised:
        held = f"of what is answered, with {confidence(promised)} confidence"
        rows.append(["Right answers", f"at least {at_least(promised)}", f"{held}; out of fold"])
    return rows


def at_least(promised: Mapping[str, float]) -> str:
    """Format the lower bound of the accuracy, rounded down."""
    return percent(math.floor(promised["accuracy_at_least"] * 1000) / 1000)


def confidence(promised: Mapping[str, float]) -> str:
    return f"{100 * promised['confidence']:.0f} %"


def source_rows(evidence: Evidence) -> list[list[str]]:
    source, images = evidence["source"], evidence["images"]
    counts = f"{images['calibration']} for calibration, {images['evaluation']} for evaluation"
    rows = [
        ["file", source["file"]],
        ["kind", source["kind"]],
        ["size", unit(source["size_mb"], "MB")],
        ["scaling layers", ", ".join(source["inside"]) or "none found"],
        ["output", source["output"]],
        ["images", counts],
    ]
    return [*rows, ["note", images["note"]]] if images["note"] else rows


def card_rows(card: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the converted model, from its card."""
    side, cam, scaling = card["side_px"], card["cam"], card["scaling"]
    height, width = side if isinstance(side, list) else (side, side)
    figures = {"largest error": cam.get("max_error"), "correlation": cam.get("correlation")}
    maps = [
        "equal to Grad-CAM" if cam["faithful"] else "not equal to Grad-CAM",
        cam.get("head"),
        ", ".join(f"{name} {value:.2g}" for name, value in figures.items() if is_measured(value)),
        cam.get("note"),
        cam.get("why"),
    ]
    return [
        ["name", card["name"]],
        ["precision", card["precision"]],
        ["size", f"{unit(card['bytes'] / 2**20, 'MB')} ({card['bytes']:,} bytes)"],
        ["sha256", card["sha256"]],
        ["image", f"{height} × {width} px (height × width), {card['resize']}, {card['channels']}"],
        ["scaling", f"(pixel − {scaling['mean']}) / {scaling['std']}"],
        ["temperature", card["temperature"]],
        ["thresholds", ", ".join(f"{name} {value}" for name, value in card["thresholds"].items())],
        ["activation maps", "; ".join(filter(None, maps))],
    ]
