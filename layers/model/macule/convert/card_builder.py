"""The card of a converted model, and the evidence that its report shows."""

import argparse
import hashlib
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule import __version__
from macule.convert import export, scaling
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.evaluation.dataset import Images
from macule.convert.graph import out_of_distribution
from macule.convert.quantization import comparison
from macule.convert.quantization.acceptance import Gate
from macule.convert.quantization.candidates import Candidate
from macule.convert.quantization.comparison import Comparison
from macule.convert.source import load
from macule.convert.source.load import Source

LEAST_TO_FIT = 50  # labelled images below which a temperature would be noise
MAPS_SHOWN = 6
PARTS = ("tensorflow-cpu", "keras", "tf-keras", "ai-edge-litert", "litert-quantizer", "numpy")
NO_IMAGES = (
    "No image was given: the ranges of int8 and every agreement come from drawn stand-ins, which "
    "prove nothing. Convert again with --calibration DIR before you trust it."
)
SURE = {
    "found": "sure",
    "likely": "likely, not sure",
    "convention": "fairly sure",
    "assumed": "not sure: check it, or give --eval",
    "asked": "as asked",
    "forced": "forced",
}


class Given(NamedTuple):
    """What the user gave: the model, what its outputs mean, images for either purpose or None.

    `texts` are the card's `names`, `descriptions` and `urgent`.
    """

    source: Source
    side_px: tuple[int, int]
    labels: list[str]
    texts: dict[str, Any]
    calibration: Images | None
    evaluation: Images | None

    @property
    def judged(self) -> Images | None:
        """The images that candidates are compared on."""
        return self.evaluation or self.calibration


class Trial(NamedTuple):
    """The images of the comparison: `rgb` as decoded, `pixels` in the network's channels.

    `proves` is False where they are drawn stand-ins.
    """

    rgb: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64] | None
    scaling: batch_inference.Scaling
    proves: bool


class Tested(NamedTuple):
    """A candidate, what it does, which gates it fails, and whether it is the one."""

    candidate: Candidate
    proof: Comparison
    failed: list[str]
    chosen: bool


class Made(NamedTuple):
    """Everything that a conversion found; `before` (n, classes) is the original's answer.

    `logits` (n, classes) and `distances` (n,), if it has any, are the chosen file's, on the same
    images.
    """

    given: Given
    exported: export.Exported
    choice: scaling.ScalingChoice
    trial: Trial
    before: NDArray[np.float32]
    tested: list[Tested]
    logits: NDArray[np.float32]
    distances: NDArray[np.float32] | None

    @property
    def chosen(self) -> Tested:
        return next(one for one in self.tested if one.chosen)


def card(options: argparse.Namespace, made: Made) -> dict[str, Any]:
    """Compose the card: every fact that serving and a reader need, numbers to six digits."""
    given, chosen = made.given, made.chosen
    content, logits = chosen.candidate.content, made.logits
    height, width = given.side_px
    temperature, threshold = calibrate(logits, made.trial.truth)
    document = {
        "schema": 1,
        "name": options.name or options.model.name.split(".")[0],
        "version": "1",
        "file": "model.tflite",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "precision": chosen.candidate.precision,
        "labels": given.labels,
        **given.texts,
        "side_px": height if height == width else [height, width],
        "resize": options.resize,
        "channels": made.choice.channels,
        "scaling": {"mean": list(made.trial.scaling[0]), "std": list(made.trial.scaling[1])},
        "output": made.exported.output,
        "temperature": temperature,
        "thresholds": {"inconclusive": threshold} | strange(made),
        "cam": made.exported.cam,
        "source": f"{options.model.name} ({given.source.kind}), by macule convert {__version__}",
        "licence": "that of the original",
        "metrics": figures(made, logits, temperature),
    }
    tidied: dict[str, Any] = tidy(document)
    return tidied


def figures(made: Made, logits: NDArray[np.float32], temperature: float) -> dict[str, Any]:
    """What was measured of the shipped file, on which images."""
    proof, truth = made.chosen.proof, made.trial.truth
    found: dict[str, Any] = {
        "against_original": {
            "n": proof.images,
            "top1_agreement": proof.agreement,
            "mean_change": proof.mean_change,
            "max_change": proof.max_change,
        }
    }
    if truth is not None:
        found |= metrics.summarise(logits, truth, made.given.labels, temperature)
    if not made.trial.proves:
        found["note"] = NO_IMAGES
    return found


def calibrate(logits: NDArray[np.float32], truth: NDArray[np.int64] | None) -> tuple[float, float]:
    """Fit the temperature and the threshold of `inconclusive`; 1 and 0 with too few labels."""
    if truth is None or len(truth) < LEAST_TO_FIT:
        return 1.0, 0.0
    return metrics.calibrate(logits, truth)


def strange(made: Made) -> dict[str, float]:
    """Set the distances from which an image is unfamiliar, and from which it is not skin."""
    if made.distances is None:
        return {}
    return out_of_distribution.score_thresholds(
        made.distances if made.given.evaluation else made.distances[1::2]
    )


def evidence(
    options: argparse.Namespace, typed: str, made: Made, document: Mapping[str, Any]
) -> dict[str, Any]:
    """Gather what `report.write` shows."""
    given, source = made.given, made.given.source
    return {
        "title": document["name"],
        "command": typed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "card": document,
        "source": {
            "file": options.model.name,
            "kind": source.kind,
            "size_mb": source.size_mb,
            "inside": list(source.inside),
            "output": source.output,
        },
        "findings": findings(made),
        "scaling": {
            "chosen": f"{made.choice.name}, {made.choice.channels}",
            "why": f"{made.choice.why} ({SURE[made.choice.sure]})",
            "n": len(made.choice.table[0].right) if made.choice.table else 0,
            "table": [
                {
                    "name": f"{one.name}, {one.channels}",
                    "accuracy": one.accuracy,
                    "balanced_accuracy": one.balanced_accuracy,
                    "confidence": one.confidence,
                }
                for one in made.choice.table
            ],
        },
        "images": {
            "calibration": len(given.calibration.pixels) if given.calibration else 0,
            "evaluation": len(given.evaluation.pixels) if given.evaluation else 0,
            "note": "" if made.trial.proves else NO_IMAGES,
        },
        "candidates": [row(one) for one in made.tested],
        "original": original(made),
        "gate": Gate(
            options.gate_agreement, options.gate_mean_change, options.gate_lost, options.limit_mb
        )._asdict(),
        "probabilities": {
            "before": made.before,
            "after": metrics.softmax(made.logits),
        },
        "truth": made.trial.truth,
        "maps": maps(made),
    }


def findings(made: Made) -> list[dict[str, str]]:
    """Say what was found and assumed, and warn of what may be wrong."""
    choice, source = made.choice, made.given.source
    unsure = choice.sure in ("assumed", "forced", "likely")
    found = [
        finding(
            "warning" if unsure else "info",
            f"Scaling {choice.name} in {choice.channels} order: {choice.why} "
            f"({SURE[choice.sure]}).",
        )
    ]
    if not made.trial.proves:
        found.append(finding("warning", NO_IMAGES))
    elif len(made.before) >= 10 and len(set(made.before.argmax(axis=1).tolist())) == 1:
        only = made.given.labels[int(made.before[0].argmax())]
        found.append(
            finding(
                "warning",
                f"The original answers {only!r} for all {len(made.before)} images: it, its labels "
                "or its scaling may be wrong.",
            )
        )
    if made.chosen.failed:
        told = "; ".join(made.chosen.failed)
        found.append(finding("warning", f"The precision asked for does not pass: {told}."))
    broken = sum(part.broken for part in (made.given.calibration, made.given.evaluation) if part)
    if broken:
        found.append(finding("warning", f"{broken} images could not be decoded and are left out."))
    if made.trial.truth is None or len(made.trial.truth) < LEAST_TO_FIT:
        found.append(
            finding(
                "info",
                f"Fewer than {LEAST_TO_FIT} labelled images: temperature 1, and no answer is held "
                "back as inconclusive.",
            )
        )
    if made.distances is None:
        found.append(
            finding(
                "info",
                f"Fewer than {2 * out_of_distribution.MIN_IMAGES} images to calibrate on, or no feature"
                " maps: an image of something else is not told apart as not_skin.",
            )
        )
    if "note" in made.exported.cam:
        found.append(finding("warning", f"Activation maps: {made.exported.cam['note']}."))
    if "why" in made.exported.cam:
        found.append(finding("info", f"No activation maps: {made.exported.cam['why']}"))
    if source.output == "sigmoid":
        found.append(
            finding(
                "info",
                f"One sigmoid: it is read as the probability of {made.given.labels[1]!r}, the "
                "second label.",
            )
        )
    return found


def finding(level: str, text: str) -> dict[str, str]:
    return {"level": level, "text": text}


def row(one: Tested) -> dict[str, Any]:
    """One candidate as the report's tables show it."""
    labelled = one.proof.labelled
    return {
        **one.proof._asdict(),
        "p50_ms": {str(threads): spent for threads, spent in one.proof.p50_ms.items()},
        "accuracy": labelled.accuracy if labelled else None,
        "balanced_accuracy": labelled.balanced_accuracy if labelled else None,
        "auc": labelled.auc if labelled else None,
        "failed": one.failed,
        "chosen": one.chosen,
    }


def original(made: Made) -> dict[str, Any]:
    """The model as it came, in the same terms."""
    source, truth = made.given.source, made.trial.truth
    judged = (
        None
        if truth is None
        else comparison.compute_label_metrics(made.before, truth, made.given.labels)
    )
    return {
        "name": f"original ({source.kind})",
        "size_mb": source.size_mb,
        "accuracy": judged.accuracy if judged else None,
        "balanced_accuracy": judged.balanced_accuracy if judged else None,
        "auc": judged.auc if judged else None,
    }


def maps(made: Made) -> list[dict[str, Any]]:
    """Maps of the likeliest label on a few images: the original's Grad-CAM and the file's own."""
    if "why" in made.exported.cam or not made.trial.proves:
        return []
    count = min(MAPS_SHOWN, len(made.trial.pixels))
    places = np.linspace(0, len(made.trial.pixels) - 1, count).astype(int)
    pixels = made.trial.pixels[places]
    answers = list(
        batch_inference.run_outputs(made.chosen.candidate.content, pixels, made.trial.scaling)
    )
    best = made.before[places].argmax(axis=1)
    scaled = batch_inference.scale(pixels, made.trial.scaling)
    gradients = load.gradient_maps(made.given.source, scaled, best)
    return [
        {
            "image": made.trial.rgb[place],
            "before": None if gradients is None else gradients[index],
            "after": answers[index][batch_inference.MAPS][..., label],
            "label": made.given.labels[label],
        }
        for index, (place, label) in enumerate(zip(places, best, strict=True))
    ]


def versions() -> dict[str, str]:
    """The versions that had a part in the conversion."""
    found = {"macule": __version__, "python": platform.python_version()}
    for part in PARTS:
        try:
            found[part] = version(part)
        except PackageNotFoundError:
            continue
    return found


def tidy(value: Any) -> Any:
    """Make a document fit for JSON: six digits, null for a figure without data."""
    if isinstance(value, dict):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if not math.isfinite(value) else float(f"{value:.6g}")
    return int(value) if isinstance(value, np.integer) else value
