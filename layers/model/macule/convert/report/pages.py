"""The conversion report: REPORT.md and report.html."""

from pathlib import Path
from typing import Any, NamedTuple

from macule.convert.evaluation import metrics
from macule.convert.report import facts, markdown, plots, sections, tables
from macule.convert.report.facts import Evidence
from macule.convert.report.formatting import number

KICKER = "macule convert, {}: what changed between the original and the converted model"


class Plot(NamedTuple):
    """A plot: `<svg>`, alternative text and caption."""

    svg: str
    alt: str
    caption: str


def write(folder: Path, evidence: Evidence) -> None:
    (folder / "REPORT.md").write_text(markdown.text(evidence), "utf-8")
    (folder / "report.html").write_text(page(evidence), "utf-8")


def page(evidence: Evidence) -> str:
    """Render the report as one self-contained HTML page without scripts."""
    return render(
        "page.html",
        title=evidence["title"],
        kicker=KICKER.format(evidence["date"]),
        disclaimer=facts.DISCLAIMER,
        summary=facts.summarise(evidence),
        sections=sections.build_sections(evidence),
        drawings=draw_plots(evidence),
        maps=draw_maps(evidence),
        command=evidence["command"],
    )


def render(name: str, **given: Any) -> str:
    """Render the template *name* with autoescaping."""
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
    """Return the plots by section."""
    before, after, truth = facts.arrays(evidence)
    count, changed = len(before), sections.change_text(before, after)
    scatter = Plot(
        plots.agreement(before, after),
        f"Scatter of each probability before against after the conversion. {changed}",
        f"Every probability of {count} images. The dotted line means no change.",
    )
    histogram = Plot(
        plots.changes(before, after),
        f"Histogram of the changes of single probabilities. {changed}",
        f"{before.size} probabilities of {count} images; logarithmic scale.",
    )
    if truth is None:
        return {"agreement": [scatter, histogram]}
    diagram = Plot(
        plots.reliability(before, after, truth),
        f"Reliability diagram. {sections.calibration_text(before, after, truth)}",
        f"{metrics.BINS} bins of equal width, n = {count}. The dotted line is a perfectly"
        f" calibrated model; hollow markers have fewer than {plots.MIN_BIN_IMAGES} images and are"
        " not reliable.",
    )
    return {"agreement": [scatter, histogram], "calibration": [diagram]}


def draw_maps(evidence: Evidence) -> list[dict[str, Any]]:
    """Return each image with the maps of both models as overlays; None without a map."""
    return [
        {
            "label": part["label"],
            "image": plots.image_uri(part["image"]),
            **{
                key: None if part[key] is None else plots.overlay_uri(part["image"], part[key])
                for key in ("before", "after")
            },
            "correlation": number(tables.map_correlation(part), 2),
        }
        for part in evidence["maps"]
    ]
