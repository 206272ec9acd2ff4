"""The report beside a converted model: REPORT.md for a terminal, report.html for a browser."""

from pathlib import Path
from typing import Any, NamedTuple

from macule.convert.evaluation import metrics
from macule.convert.report import facts, markdown, plots, sections, tables
from macule.convert.report.facts import Evidence
from macule.convert.report.formatting import number

KICKER = "macule convert, {}: what changed between the original and the converted model"


class Plot(NamedTuple):
    """One plot: its `<svg>`, what it says to who cannot see it, and the line below it."""

    svg: str
    alt: str
    caption: str


def write(folder: Path, evidence: Evidence) -> None:
    """Write REPORT.md and report.html into *folder*.

    *evidence*: plain data, any part absent or None; both files say what was not given.
    """
    (folder / "REPORT.md").write_text(markdown.text(evidence), "utf-8")
    (folder / "report.html").write_text(page(evidence), "utf-8")


def page(evidence: Evidence) -> str:
    """Set the report as one page that asks for nothing outside itself and runs no script."""
    screen = facts.summarise(evidence)
    return render(
        "page.html",
        title=screen.title,
        kicker=KICKER.format(screen.date),
        disclaimer=screen.disclaimer,
        screen=screen,
        sections=sections.build_sections(evidence),
        drawings=draw_plots(evidence),
        maps=draw_maps(evidence),
    )


def render(name: str, **given: Any) -> str:
    """Fill the template *name*; all text that it is given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, "utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(given)


def draw_plots(evidence: Evidence) -> dict[str, list[Plot]]:
    """Draw what the evidence allows, by the section it belongs to."""
    before, after, truth = facts.arrays(evidence)
    if before is None:
        return {}
    count, changed = len(before), sections.change_text(before, after)
    found = {
        "agreement": [
            Plot(
                plots.agreement(before, after),
                f"Scatter of each probability before against after the conversion. {changed}",
                f"Every probability of {count} images. On the dotted line nothing changed.",
            ),
            Plot(
                plots.changes(before, after),
                f"Histogram of the changes of single probabilities. {changed}",
                f"{before.size} probabilities of {count} images; logarithmic scale.",
            ),
        ]
    }
    if truth is not None:
        found["calibration"] = [
            Plot(
                plots.reliability(before, after, truth),
                f"Reliability diagram. {sections.calibration_text(before, after, truth)}",
                f"{metrics.BINS} bins of equal width, n = {count}. On the dotted line a model is"
                f" right as often as its confidence says; hollow marks stand for fewer than"
                f" {plots.MIN_BIN_IMAGES} images and say next to nothing.",
            )
        ]
    return found


def draw_maps(evidence: Evidence) -> list[dict[str, Any]]:
    """Draw each image and the maps of both models over it; None where a model gave none."""
    return [
        {
            "label": str(part.get("label", "")),
            "image": plots.image_uri(part["image"]),
            **{
                key: None if part.get(key) is None else plots.overlay_uri(part["image"], part[key])
                for key in ("before", "after")
            },
            "alike": number(tables.map_correlation(part), 2),
        }
        for part in evidence.get("maps") or []
    ]
