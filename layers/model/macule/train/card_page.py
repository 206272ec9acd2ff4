"""The model card as a Markdown page, generated from the measured figures."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from macule.convert.evaluation import metrics
from macule.convert.evaluation.predictions import DECISIONS, Predictions
from macule.convert.evaluation.predictions import compute_metrics as compute_served_metrics
from macule.convert.report import plots
from macule.inference import classification, decoding, runtime
from macule.inference.runtime.loading import LoadedModel
from macule.train import synthetic_ood

TEMPLATE = Path(__file__).with_name("model-card.md")
SYNTHETIC_IMAGES = 210
COLOURS = {
    "ink": "#222222",
    "faint": "#8a8a8a",
    "before": "#b26a00",
    "after": "#1f5fa8",
    "paper": "#ffffff",
}


def compute_metrics(folder: Path, predictions: Predictions) -> dict[str, Any]:
    """Return the metrics of *predictions*, and the decisions for synthetic OOD images."""
    warm = runtime.get_or_load(str(folder))
    decisions = Counter(decide(warm, image) for image in synthetic_ood.draw(SYNTHETIC_IMAGES))
    return {
        **compute_served_metrics(predictions),
        "calibration_bins": equal_size_bins(predictions.probabilities, predictions.truth),
        "drawn": {"n": SYNTHETIC_IMAGES} | {name: decisions[name] for name in DECISIONS},
    }


def decide(warm: LoadedModel, image: Any) -> str:
    """Return the decision for one image (side, side, 3), as in production."""
    from PIL.Image import fromarray

    height, width = decoding.sides(warm.card.side_px)
    scores = runtime.run(warm, fromarray(image).resize((width, height)))
    top = max(scores.probabilities)
    return classification.decide(warm.card, top, scores.distance, scores.clinical).decision


def equal_size_bins(
    probabilities: metrics.Floats, truth: metrics.Ints, count: int = 5
) -> list[list[float]]:
    """Group top answers by confidence into groups of equal size.

    Returns: number of images, mean confidence and accuracy of each group.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    groups = np.array_split(np.argsort(top, kind="stable"), count)
    return [[len(g), float(top[g].mean()), float(right[g].mean())] for g in groups if len(g)]


def write(path: Path, folder: Path, predictions: Predictions) -> None:
    """Write the page, and its plot in the same folder."""
    path.write_text(render(folder), encoding="utf-8")
    svg = plots.reliability(predictions.uncalibrated, predictions.probabilities, predictions.truth)
    for role, colour in COLOURS.items():
        svg = svg.replace(f"var(--{role})", colour)
    path.with_suffix(".svg").write_text(svg + "\n", encoding="utf-8")


def render(folder: Path) -> str:
    """Render the page from `model.json`, `metrics.json` and `evaluation.json` in *folder*."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["span"] = format_interval
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    card, measured, found = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("model", "metrics", "evaluation")
    )
    return template.render(card=card, files=measured["files"], found=found)


def format_interval(figure: Mapping[str, float]) -> str:
    """Format a metric with its interval, with two digits."""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
