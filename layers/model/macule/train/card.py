"""The model card and the metrics of the default model."""

import hashlib
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from macule.convert.card_builder import write_json
from macule.convert.evaluation import calibration
from macule.convert.evaluation.dataset import Photo
from macule.convert.graph import out_of_distribution
from macule.train.backbone import MEAN, STD
from macule.train.fine_tuning import TrainingPlan
from macule.train.recipe import CALIBRATION_IMAGES, TrainedModel

PACKAGES = ("tensorflow-cpu", "keras", "litert-quantizer", "ai-edge-litert", "numpy", "pillow")


def write_model(folder: Path, trained: TrainedModel, card: dict[str, Any]) -> None:
    """Write `model.tflite`, `model.json` and `metrics.json` into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(trained.content)
    write_json(folder / "model.json", card)
    figures = {"split": "val", "model": card["sha256"], "files": trained.figures}
    write_json(folder / "metrics.json", figures)


def build_card(
    trained: TrainedModel,
    about: dict[str, Any],
    labels: list[str],
    side_px: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Build the card of a trained model.

    *about*: name, version, names and descriptions by language, urgent labels, source, licences.
    """
    figures = trained.figures["int8"]
    return {
        "schema": 1,
        "name": about["name"],
        "version": about["version"],
        "file": "model.tflite",
        "sha256": hashlib.sha256(trained.content).hexdigest(),
        "bytes": len(trained.content),
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
        "temperature": trained.temperature,
        "thresholds": trained.thresholds,
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
    photos: list[Photo], weights: str, plan: TrainingPlan, trained: TrainedModel
) -> dict[str, Any]:
    """Describe the training: image counts, recipe, command, versions, date."""
    counts: dict[str, Counter[str]] = {}
    for photo in photos:
        counts.setdefault(photo.split, Counter())[photo.label] += 1
    return {
        "splits": {split: dict(labels) for split, labels in counts.items()},
        "fitted_on": [split for split in counts if split != "val"],
        "weights": weights,
        "recipe": "All layers fine-tuned, with folded batch normalisation: AdamW with a cosine"
        " schedule; crops, rotation, colour, brightness, blur, JPEG, drawn hair and ruler marks;"
        " class weights from the square root of the inverse frequency; label smoothing; a moving"
        " average of the weights. The weights of several seeds are averaged while the validation"
        " loss decreases. The bias of the head is fitted on val, with the same class weights. int8"
        " by litert-quantizer, per-channel weights with GPTQ rounding, first layers and head in"
        " float,"
        f" ranges from {CALIBRATION_IMAGES} training images. Temperature on val; inconclusive"
        f" below the top probability that {calibration.COVERAGE:.0%} of val exceed, and above the"
        f" OOD score of the quantile {out_of_distribution.INCONCLUSIVE_QUANTILE:.0%}; not skin"
        f" above that of {out_of_distribution.NOT_SKIN_QUANTILE:.0%}.",
        "plan": plan._asdict(),
        "seeds_averaged": trained.seeds,
        "command": "make train DATA=...",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
