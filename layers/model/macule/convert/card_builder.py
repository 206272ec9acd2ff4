"""The model card of a converted model."""

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from macule import __version__
from macule.convert.conversion import NO_IMAGES, Conversion
from macule.convert.evaluation import metrics
from macule.convert.graph import out_of_distribution


def build_card(options: argparse.Namespace, conversion: Conversion) -> dict[str, Any]:
    """Build the card, with numbers rounded to six significant digits."""
    inputs, candidate = conversion.inputs, conversion.chosen.candidate
    mean, std = conversion.images.scaling
    height, width = inputs.side_px
    calibrated = conversion.calibrated
    fitted = calibrated.fitted if calibrated else None
    document = {
        "schema": 1,
        "name": options.name or options.model.name.split(".")[0],
        "version": "1",
        "file": "model.tflite",
        "sha256": hashlib.sha256(candidate.content).hexdigest(),
        "bytes": len(candidate.content),
        "precision": candidate.precision,
        "labels": inputs.labels,
        **inputs.texts,
        "side_px": height if height == width else [height, width],
        "resize": options.resize,
        "channels": conversion.scaling.channels,
        "scaling": {"mean": list(mean), "std": list(std)},
        "output": conversion.exported.output,
        "temperature": fitted.temperature if fitted else 1.0,
        "thresholds": {"inconclusive": fitted.inconclusive if fitted else 0.0}
        | ood_thresholds(conversion),
        "prediction_sets": fitted.prediction_sets if fitted else {},
        "cam": conversion.exported.cam,
        "source": f"{options.model.name} ({inputs.source.kind}), by macule convert {__version__}",
        "licence": "that of the original",
        "metrics": compute_metrics(conversion),
    }
    rounded: dict[str, Any] = to_json(document)
    return rounded


def compute_metrics(conversion: Conversion) -> dict[str, Any]:
    """Return the measured figures of the chosen file; those of fitted values are out of fold."""
    comparison, truth = conversion.chosen.comparison, conversion.images.truth
    calibrated = conversion.calibrated
    figures: dict[str, Any] = {
        "against_original": {
            "n": comparison.images,
            "top1_agreement": comparison.agreement,
            "mean_change": comparison.mean_change,
            "max_change": comparison.max_change,
        }
    }
    if truth is not None:
        shares = calibrated.held.probabilities if calibrated else metrics.softmax(conversion.logits)
        figures |= metrics.summarise(conversion.logits, truth, conversion.inputs.labels, shares)
        figures |= calibrated.figures(truth) if calibrated else {}
    if conversion.images.synthetic:
        figures["note"] = NO_IMAGES
    return figures


def ood_thresholds(conversion: Conversion) -> dict[str, float]:
    """Return the thresholds of the OOD score; empty if the file has no OOD score."""
    scores = conversion.ood_scores
    if scores is None:
        return {}
    # without evaluation images, the OOD scorer was fitted on every other image
    held_out = scores if conversion.inputs.evaluation else scores[1::2]
    return out_of_distribution.score_thresholds(held_out)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write readable JSON: two spaces, UTF-8, six significant digits."""
    text = json.dumps(to_json(document), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def to_json(value: Any) -> Any:
    """Prepare *value* for JSON: six significant digits, null for nan and infinity."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if not math.isfinite(value) else float(f"{value:.6g}")
    return int(value) if isinstance(value, np.integer) else value
