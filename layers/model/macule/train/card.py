"""The model card of the default model."""

import hashlib
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from macule.convert.evaluation import calibration
from macule.train import domains
from macule.train.cross_validation import Fitted
from macule.train.inputs import Photos
from macule.train.network.backbone import MEAN, STD
from macule.train.plan import TrainingPlan
from macule.train.recipe import CALIBRATION_IMAGES

PACKAGES = ("tensorflow-cpu", "keras", "litert-quantizer", "ai-edge-litert", "numpy", "pillow")
RECIPE = (
    "The lower layers keep their ImageNet weights; the upper ones are fine-tuned, with folded batch"
    " normalisation: AdamW with a cosine schedule; crops, rotation, colour, brightness, blur, JPEG,"
    " drawn hair and ruler marks; MixUp; class weights from the square root of the inverse"
    " frequency; label smoothing; a moving average of the weights. One run for each fold, which"
    " leaves its images out, and one on all images, which is the published file. The bias of the"
    " head, the temperature and the thresholds are fitted on the answers for the images left out."
    " int8 by litert-quantizer, per-channel weights with GPTQ rounding, first layers and head in"
    f" float, ranges from {CALIBRATION_IMAGES} images. Inconclusive below the top probability that"
    f" {calibration.COVERAGE:.0%} of the images exceed; quantiles of the scores of dermoscopic"
    f" photos: {domains.UNFAMILIAR_QUANTILE:.1%} unfamiliar, {domains.NOT_SKIN_QUANTILE:.1%} not"
    f" skin, {domains.CLINICAL_QUANTILE:.1%} not dermoscopic."
)


def build(
    content: bytes,
    fitted: Fitted,
    about: dict[str, Any],
    labels: list[str],
    side_px: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Build the card of a file, without its figures.

    *about*: name, version, names and descriptions by language, urgent labels, source, licences.
    """
    return {
        "schema": 1,
        "name": about["name"],
        "version": about["version"],
        "file": "model.tflite",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
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
        "temperature": fitted.calibration.temperature,
        "thresholds": fitted.thresholds,
        "prediction_sets": fitted.calibration.prediction_sets,
        "cam": {
            "faithful": True,
            "head": "gap-dense",
            "kind": "Grad-CAM before its ReLU: logits = mean(cams) + bias",
        },
        "source": about["source"],
        "licence": about["licence"],
        "data_licence": about["data_licence"],
        "training": {"data": about["data"], "photographs": about.get("photographs", "")} | training,
    }


def training_history(photos: Photos, weights: str, plan: TrainingPlan) -> dict[str, Any]:
    """Describe the training: image counts, recipe, command, versions, date."""
    return {
        "lesions": dict(Counter(photo.label for photo in photos.lesions)),
        "centre_squares": len(photos.cropped),
        "clinical_photos": len(photos.clinical),
        "weights": weights,
        "recipe": RECIPE,
        "plan": plan._asdict(),
        "command": "make train DATA=... CLINICAL=...",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
