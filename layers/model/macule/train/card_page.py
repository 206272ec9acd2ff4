"""The model card as a page: prose with the measured figures, so that they cannot differ."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from macule.convert import evaluate
from macule.convert.evaluation import metrics
from macule.convert.report import plots
from macule.inference import classification, decoding, runtime
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


def compute_metrics(folder: Path, answers: evaluate.Predictions) -> dict[str, Any]:
    """Give the figures of the *answers* of the model in *folder*, and what it says of no skin."""
    warm = runtime.warm(str(folder))
    decisions = Counter(decide(warm, picture) for picture in synthetic_ood.draw(SYNTHETIC_IMAGES))
    return {
        **evaluate.compute_metrics(answers),
        "calibration_bins": equal_size_bins(answers.probabilities, answers.truth),
        "drawn": {"n": SYNTHETIC_IMAGES} | {name: decisions[name] for name in evaluate.DECISIONS},
    }


def decide(warm: runtime.Warm, picture: Any) -> str:
    """Decide one picture (side, side, 3) as the service would."""
    from PIL.Image import fromarray

    height, width = decoding.sides(warm.card.side_px)
    scores = runtime.run(warm, np.asarray(fromarray(picture).resize((width, height)))[None])
    return classification.decide(warm.card, float(scores.probabilities.max()), scores.distance)


def equal_size_bins(
    probabilities: metrics.Floats, truth: metrics.Ints, count: int = 5
) -> list[list[float]]:
    """Group top answers by confidence, each group as large as the others.

    Returns: for each its images, mean confidence, and share of right answers.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    groups = np.array_split(np.argsort(top, kind="stable"), count)
    return [[len(g), float(top[g].mean()), float(right[g].mean())] for g in groups if len(g)]


def write(path: Path, folder: Path, answers: evaluate.Predictions) -> None:
    """Write the page, and beside it the plot that it shows."""
    path.write_text(render(folder), encoding="utf-8")
    drawn = plots.reliability(answers.uncalibrated, answers.probabilities, answers.truth)
    for role, colour in COLOURS.items():
        drawn = drawn.replace(f"var(--{role})", colour)
    path.with_suffix(".svg").write_text(drawn + "\n", encoding="utf-8")


def render(folder: Path) -> str:
    """Fill the page from `model.json`, `metrics.json` and `evaluation.json` in *folder*."""
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
    """Write a figure with its interval, to two digits."""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
