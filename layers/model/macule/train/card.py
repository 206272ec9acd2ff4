"""The model's card and its metrics, as the files beside the weights."""

import hashlib
import json
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from macule.convert.card_builder import to_json
from macule.convert.evaluation import metrics
from macule.convert.evaluation.dataset import Photo
from macule.convert.graph import out_of_distribution
from macule.train.backbone import MEAN, STD
from macule.train.fine_tuning import TrainingPlan
from macule.train.recipe import CALIBRATION_IMAGES, TrainedModel

PARTS = (
    "tensorflow-cpu",
    "keras",
    "litert-quantizer",
    "ai-edge-litert",
    "numpy",
    "pillow",
)


def write_model(folder: Path, made: TrainedModel, card: dict[str, Any]) -> None:
    """Write `model.tflite`, `model.json` and `metrics.json` into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(made.content)
    write_json(folder / "model.json", card)
    write_json(
        folder / "metrics.json", {"split": "val", "model": card["sha256"], "files": made.figures}
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write JSON for people: two spaces, UTF-8, null for a figure without data."""
    text = json.dumps(to_json(document), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def build_card(
    made: TrainedModel,
    about: dict[str, Any],
    labels: list[str],
    side_px: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Compose the card of *made*.

    *about* holds what no program can measure: name, version, names and
    descriptions by language, which labels are urgent, source, licences.
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
        "descriptions": {
            language: [texts[label] for label in labels]
            for language, texts in about.get("descriptions", {}).items()
            if set(labels) <= texts.keys()
        },
        "urgent": [label for label in labels if label in about.get("urgent", ())],
        "side_px": side_px,
        "resize": "squash",
        "channels": "rgb",
        "scaling": {"mean": list(map(int, MEAN)), "std": list(map(int, STD))},
        "temperature": made.temperature,
        "thresholds": made.thresholds,
        "cam": {
            "faithful": True,
            "head": "gap-dense",
            "kind": "Grad-CAM before its ReLU: logits = mean(cams) + bias",
        },
        "source": about["source"],
        "licence": about["licence"],
        "data_licence": about["data_licence"],
        "training": {"data": about["data"], "photographs": about.get("photographs", "")} | training,
        "metrics": {"split": "val", "precision": "int8"} | figures,
    }


def training_history(
    photos: list[Photo], weights: str, plan: TrainingPlan, made: TrainedModel
) -> dict[str, Any]:
    """Say how the model was trained: counts, recipe, command, versions, date."""
    counts: dict[str, Counter[str]] = {}
    for photo in photos:
        counts.setdefault(photo.split, Counter())[photo.label] += 1
    return {
        "splits": {split: dict(labels) for split, labels in counts.items()},
        "fitted_on": [split for split in counts if split != "val"],
        "weights": weights,
        "recipe": "Whole network fine-tuned, its batch normalisations folded first: AdamW with a"
        " cosine rate, crops, turns, colour, light, blur, JPEG, drawn hair and ruler marks, classes"
        " weighed by the root of their rarity, label smoothing, a running mean of the weights; the"
        " runs of several seeds averaged as long as validation gains; the head's bias set anew by"
        " val, each class weighed by the root of its rarity. int8 by litert-quantizer,"
        " per-channel weights rounded by what their layers see, first layers and head in float,"
        f" ranges from {CALIBRATION_IMAGES} training images. Temperature on val; inconclusive"
        f" below the top probability that {metrics.COVERAGE:.0%} of val exceed, and beyond the"
        f" distance that {out_of_distribution.INCONCLUSIVE_QUANTILE:.0%} keep within; not skin beyond that of"
        f" {out_of_distribution.NOT_SKIN_QUANTILE:.0%}.",
        "plan": plan._asdict(),
        "seeds_averaged": made.kept,
        "command": "make train DATA=...",
        "versions": {"python": platform.python_version()} | {part: version(part) for part in PARTS},
        "date": datetime.now(UTC).date().isoformat(),
    }
