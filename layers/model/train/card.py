"""The model's card and its metrics, as the files beside the weights."""

import hashlib
import json
import math
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from train.backbone import MEAN, STD
from train.data import Photo
from train.recipe import CALIBRATION_IMAGES, COVERAGE, Made

PARTS = (
    "tensorflow-cpu",
    "keras",
    "litert-quantizer",
    "ai-edge-litert",
    "numpy",
    "scipy",
    "pillow",
)


def write(folder: Path, made: Made, card: dict[str, Any]) -> None:
    """Write `model.tflite`, `model.json` and `metrics.json` into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(made.content)
    dump(folder / "model.json", card)
    dump(folder / "metrics.json", {"split": "val", "model": card["sha256"], "files": made.figures})


def dump(path: Path, document: dict[str, Any]) -> None:
    """Write JSON for people: two spaces, UTF-8, four decimals, null for a figure without data."""
    text = json.dumps(tidy(document), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def tidy(value: Any) -> Any:
    """Round every number of a document and drop what JSON cannot say."""
    if isinstance(value, dict):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def compose(
    made: Made, about: dict[str, Any], labels: list[str], side_px: int, training: dict[str, Any]
) -> dict[str, Any]:
    """Compose the card of *made*.

    *about* holds what no program can measure: name, version, names by language, source, licences.
    """
    figures = made.figures["int8"]
    return {
        "schema": 1,
        "name": about["name"],
        "version": about["version"],
        "file": "model.tflite",
        "sha256": hashlib.sha256(made.content).hexdigest(),
        "bytes": len(made.content),
        "precision": "int8",
        "labels": labels,
        "names": {
            language: [names.get(label, label.replace("_", " ")) for label in labels]
            for language, names in about["names"].items()
        },
        "side_px": side_px,
        "resize": "squash",
        "channels": "rgb",
        "scaling": {"mean": list(map(int, MEAN)), "std": list(map(int, STD))},
        "temperature": made.temperature,
        "thresholds": {"inconclusive": made.inconclusive},
        "cam": {
            "faithful": True,
            "head": "gap-dense",
            "kind": "Grad-CAM before its ReLU: logits = mean(cams) + bias",
        },
        "source": about["source"],
        "licence": about["licence"],
        "data_licence": about["data_licence"],
        "training": {"data": about["data"]} | training,
        "metrics": {"split": "val", "precision": "int8"} | figures,
    }


def describe(
    photos: list[Photo], column: str, weights: str, made: Made, seed: int
) -> dict[str, Any]:
    """Say how the model was trained: counts, recipe, seed, command, versions, date."""
    counts: dict[str, Counter[str]] = {}
    for photo in photos:
        counts.setdefault(photo.split, Counter())[photo.label] += 1
    return {
        "splits": {split: dict(labels) for split, labels in counts.items()},
        "fitted_on": [split for split in counts if split != "val"],
        "column": column,
        "weights": weights,
        "recipe": "Frozen backbone; pooled features of four mirrorings, each from the fp32 and the"
        " int8 file; class-balanced multinomial logistic regression (L-BFGS), penalty by five-fold"
        " cross-validation on the mean AUC; int8 by litert-quantizer, per-channel weights rounded"
        " by what their layers see, first layers and head in float, ranges from"
        f" {CALIBRATION_IMAGES} training images; temperature on val; inconclusive below the top"
        f" probability that {COVERAGE:.0%} of val exceed.",
        "penalty": made.penalty,
        "cross_validated_auc": made.penalties,
        "seed": seed,
        "command": f"python -m train DATA --column {column} --weights {weights} --seed {seed}"
        " --out DIR",
        "versions": {"python": platform.python_version()} | {part: version(part) for part in PARTS},
        "date": datetime.now(UTC).date().isoformat(),
    }
