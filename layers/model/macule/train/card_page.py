"""The model card as a Markdown page, generated from the measured figures."""

import json
from collections.abc import Mapping
from pathlib import Path

from macule.convert.evaluation.predictions import Predictions
from macule.convert.report import plots

TEMPLATE = Path(__file__).with_name("model-card.md")
COLOURS = {
    "ink": "#222222",
    "faint": "#8a8a8a",
    "before": "#b26a00",
    "after": "#1f5fa8",
    "paper": "#ffffff",
}


def write(path: Path, folder: Path, predictions: Predictions) -> None:
    """Write the page, and its plot in the same folder."""
    path.write_text(render(folder), encoding="utf-8")
    svg = plots.reliability(predictions.uncalibrated, predictions.probabilities, predictions.truth)
    for role, colour in COLOURS.items():
        svg = svg.replace(f"var(--{role})", colour)
    path.with_suffix(".svg").write_text(svg + "\n", encoding="utf-8")


def render(folder: Path) -> str:
    """Render the page from `model.json` and `evaluation.json` in *folder*."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"span": format_interval, "percent": format_percent}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    card, found = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("model", "evaluation")
    )
    return template.render(card=card, found=found)


def format_interval(figure: Mapping[str, float]) -> str:
    """Format a metric with its interval, with two digits."""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def format_percent(share: float | None, digits: int = 0) -> str:
    """Format a share as a percentage; a dash if it is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"
