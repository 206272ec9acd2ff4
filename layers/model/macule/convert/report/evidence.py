"""The evidence of a conversion: all data that its report shows."""

import argparse
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from macule import __version__
from macule.convert.conversion import NO_IMAGES, CandidateResult, Conversion
from macule.convert.evaluation import batch_inference, folds, metrics
from macule.convert.graph import out_of_distribution
from macule.convert.out_of_fold import MIN_LABELS
from macule.convert.quantization import comparison
from macule.convert.selection import Gate
from macule.convert.source import load
from macule.inference.runtime import tensors

MAX_MAPS = 6
MIN_IMAGES_FOR_CONSTANT_ANSWER = 10
PACKAGES = ("tensorflow-cpu", "keras", "tf-keras", "ai-edge-litert", "litert-quantizer", "numpy")
CONFIDENCE = {
    "found": "sure",
    "likely": "likely, not sure",
    "convention": "fairly sure",
    "assumed": "not sure: check it, or give --eval",
    "asked": "as requested",
    "forced": "forced",
}


def collect(
    options: argparse.Namespace, command_line: str, conversion: Conversion, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect the data for `report.pages.write`."""
    inputs, source, choice = conversion.inputs, conversion.inputs.source, conversion.scaling
    gates = options.gate_agreement, options.gate_mean_change, options.gate_lost, options.limit_mb
    return {
        "title": card["name"],
        "command": command_line,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": package_versions(),
        "card": card,
        "source": {
            "file": options.model.name,
            "kind": source.kind,
            "size_mb": source.size_mb,
            "inside": list(source.scaling_layers),
            "output": source.output,
        },
        "findings": list_findings(conversion),
        "scaling": {
            "chosen": f"{choice.name}, {choice.channels}",
            "why": f"{choice.why} ({CONFIDENCE[choice.sure]})",
            "n": len(choice.table[0].right) if choice.table else 0,
            "table": [
                {
                    "name": f"{trial.name}, {trial.channels}",
                    "accuracy": trial.accuracy,
                    "balanced_accuracy": trial.balanced_accuracy,
                    "confidence": trial.confidence,
                }
                for trial in choice.table
            ],
        },
        "images": {
            "calibration": len(inputs.calibration.pixels) if inputs.calibration else 0,
            "evaluation": len(inputs.evaluation.pixels) if inputs.evaluation else 0,
            "note": NO_IMAGES if conversion.images.synthetic else "",
        },
        "candidates": [describe_candidate(result) for result in conversion.results],
        "original": describe_original(conversion),
        "gate": Gate(*gates)._asdict(),
        "probabilities": {
            "before": conversion.reference,
            "after": metrics.softmax(conversion.logits),
        },
        "truth": conversion.images.truth,
        "maps": collect_maps(conversion),
    }


def list_findings(conversion: Conversion) -> list[dict[str, str]]:
    """List the findings and assumptions of the conversion, and its warnings."""
    choice, inputs, cam = conversion.scaling, conversion.inputs, conversion.exported.cam
    findings = []

    def add(level: str, text: str) -> None:
        findings.append({"level": level, "text": text})

    add(
        "warning" if choice.sure in ("assumed", "forced", "likely") else "info",
        f"Scaling {choice.name} in {choice.channels} order: {choice.why} "
        f"({CONFIDENCE[choice.sure]}).",
    )
    count, answers = len(conversion.reference), conversion.reference.argmax(axis=1)
    if conversion.images.synthetic:
        add("warning", NO_IMAGES)
    elif count >= MIN_IMAGES_FOR_CONSTANT_ANSWER and len(set(answers.tolist())) == 1:
        label = inputs.labels[int(answers[0])]
        add(
            "warning",
            f"The original answers {label!r} for all {count} images: the model, its labels or its "
            "scaling may be wrong.",
        )
    if conversion.chosen.failed:
        reasons = "; ".join(conversion.chosen.failed)
        add("warning", f"The requested precision does not pass all gates: {reasons}.")
    broken = sum(images.broken for images in (inputs.calibration, inputs.evaluation) if images)
    if broken:
        add("warning", f"{broken} images could not be decoded and were skipped.")
    if conversion.calibrated is None:
        add(
            "info",
            f"Fewer than {MIN_LABELS} labelled images, or of fewer than {folds.FOLDS} patients or "
            "lesions: the temperature is 1, low confidence does not make an answer inconclusive, "
            "and there are no prediction sets.",
        )
    if conversion.ood_scores is None:
        add(
            "info",
            f"Fewer than {2 * out_of_distribution.MIN_IMAGES} images to calibrate on, or no "
            "feature maps: out-of-distribution images do not get not_skin.",
        )
    if "note" in cam:
        add("warning", f"Activation maps: {cam['note']}.")
    if "why" in cam:
        add("info", f"No activation maps: {cam['why']}")
    if inputs.source.output == "sigmoid":
        add(
            "info",
            f"The output is one sigmoid. It is read as the probability of {inputs.labels[1]!r}, "
            "the second label.",
        )
    return findings


def describe_candidate(result: CandidateResult) -> dict[str, Any]:
    compared = result.comparison
    return {
        **compared._asdict(),
        **describe_metrics(compared.labelled),
        "size_mb": compared.bytes / 2**20,
        "failed": result.failed,
        "chosen": result.chosen,
    }


def describe_original(conversion: Conversion) -> dict[str, Any]:
    inputs, truth = conversion.inputs, conversion.images.truth
    labelled = None
    if truth is not None:
        labelled = comparison.compute_label_metrics(conversion.reference, truth, inputs.labels)
    return {
        "name": f"original ({inputs.source.kind})",
        "size_mb": inputs.source.size_mb,
        **describe_metrics(labelled),
    }


def describe_metrics(labelled: comparison.LabelMetrics | None) -> dict[str, Any]:
    """Return the metrics on labelled images; None without labels."""
    fields = comparison.LabelMetrics._fields
    return labelled._asdict() if labelled else dict.fromkeys(fields)


def collect_maps(conversion: Conversion) -> list[dict[str, Any]]:
    """Return activation maps of the top label for a few images: original and chosen file."""
    images, inputs = conversion.images, conversion.inputs
    if "why" in conversion.exported.cam or images.synthetic:
        return []
    count = min(MAX_MAPS, len(images.pixels))
    indices = np.linspace(0, len(images.pixels) - 1, count).astype(int)
    pixels = images.pixels[indices]
    content = conversion.chosen.candidate.content
    outputs = list(batch_inference.run_outputs(content, pixels, images.scaling))
    best = conversion.reference[indices].argmax(axis=1)
    scaled = batch_inference.scale(pixels, images.scaling)
    original = load.gradient_maps(inputs.source, scaled, best)
    return [
        {
            "image": images.rgb[index],
            "before": None if original is None else original[row],
            "after": outputs[row][tensors.MAPS][..., label],
            "label": inputs.labels[label],
        }
        for row, (index, label) in enumerate(zip(indices, best, strict=True))
    ]


def package_versions() -> dict[str, str]:
    """Return the versions of macule, Python and the packages that take part."""
    found = {"macule": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
