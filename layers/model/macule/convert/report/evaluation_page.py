"""What `macule evaluate` shows: a page for a browser, lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from macule.convert.report import pages, plots
from macule.convert.report.formatting import Cell, Table, make_table, number, percent
from macule.convert.report.pages import Plot
from macule.convert.report.sections import Section, make_section

if TYPE_CHECKING:
    from macule.convert.evaluate import Predictions

DISCLAIMER = (
    "Research demonstration, not a medical device. The figures hold for the images named here;"
    " on others, of other skin or another camera, expect less."
)
KICKER = "macule evaluate, {}: {} images of {}, {}"
COLUMNS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "sensitivity_at_80_specificity": "sensitivity at 80 % specificity",
}
OVERALL = {
    "mean_auc": "mean AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "ece": "calibration error (ECE)",
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Give the figures for a terminal."""
    yield f"{found['model']['name']} on {found['n']} images, {interval_note(found)}"
    for name, title in OVERALL.items():
        yield f"  {title:<24} {with_interval(found['figures'][name])}"
    for label, count in found["n_per_label"].items():
        yield f"{label}, n = {count}"
        for name, title in COLUMNS.items():
            yield f"  {title:<32} {with_interval(found['figures'][f'{name}/{label}'])}"
    yield abstention_text(found)


def page(found: Mapping[str, Any], answers: "Predictions") -> str:
    """Set the figures as one page that asks for nothing outside itself."""
    model = found["model"]
    return pages.render(
        "evaluation.html",
        title=f"{model['name']} {model['version']} ({model['precision']})",
        kicker=KICKER.format(found["date"], found["n"], found["data"], interval_note(found)),
        disclaimer=DISCLAIMER,
        figures=key_figures(found),
        sections=sections(found),
        drawings=draw_plots(found, answers),
        command=found["command"],
    )


def key_figures(found: Mapping[str, Any]) -> Table:
    rows = [[title, *value_and_interval(found["figures"][name])] for name, title in OVERALL.items()]
    return make_table("Key figures", ["figure", "value", "interval"], rows, "words")


def interval_note(found: Mapping[str, Any]) -> str:
    return f"95 % intervals by bootstrap over each {found['resampled_by']}"


def with_interval(figure: Mapping[str, float]) -> str:
    """Write a figure with its interval."""
    value, span = value_and_interval(figure)
    return f"{value} ({span})"


def value_and_interval(figure: Mapping[str, float]) -> tuple[str, str]:
    value, low, high = (number(figure[key]) for key in ("value", "low", "high"))
    return value, f"{low} to {high}"


def sections(found: Mapping[str, Any]) -> list[Section]:
    """What the page says, in its order."""
    return [
        make_section("classes", "Each label", class_table(found)),
        make_section("confusion", "Confusion", confusion_table(found)),
        make_section("calibration", "Calibration", calibration_text(found)),
        make_section(
            "abstention", "When it does not answer", abstention_text(found), decision_table(found)
        ),
        make_section("subgroups", "Subgroups", *subgroup_tables(found)),
    ]


def class_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [label, count, *(with_interval(found["figures"][f"{name}/{label}"]) for name in COLUMNS)]
        for label, count in found["n_per_label"].items()
    ]
    return make_table("One label against the rest", ["label", "n", *COLUMNS.values()], rows)


def confusion_table(found: Mapping[str, Any]) -> Table:
    """Count labels by likeliest answer; the tint is the share of the row."""
    rows = []
    for label, counts in zip(found["labels"], found["confusion"], strict=True):
        total = max(sum(counts), 1)
        rows.append([label, *(Cell(str(count), count / total) for count in counts)])
    caption = "Likeliest answer, whatever the decision"
    return make_table(caption, ["labelled as", *found["labels"]], rows, "matrix")


def calibration_text(found: Mapping[str, Any]) -> str:
    before, after = found["ece_before_temperature"], found["figures"]["ece"]["value"]
    return (
        f"Expected calibration error of the top answer: {number(before)} before and"
        f" {number(after)} after temperature {number(found['model']['temperature'])};"
        f" {found['ece_bins']} bins of equal width. On as few images a perfectly calibrated model"
        f" would show {number(found['ece_by_chance'])} by chance."
    )


def abstention_text(found: Mapping[str, Any]) -> str:
    part = found["abstention"]
    return (
        f"{percent(part['coverage'])} are answered as classified; of these"
        f" {percent(part['accuracy_of_classified'])} are right, of all"
        f" {percent(part['accuracy_of_all'])}. {percent(part['not_skin'])} are taken for no skin."
    )


def decision_table(found: Mapping[str, Any]) -> Table:
    rows = [[label, *counts.values()] for label, counts in found["decisions"].items()]
    names = list(next(iter(found["decisions"].values())))
    return make_table("Decisions", ["labelled as", *names], rows)


def subgroup_tables(found: Mapping[str, Any]) -> list[str | Table]:
    """One table a trait, or a sentence that there is none."""
    rows = found["subgroups"]
    if not rows:
        return ["The table has neither sex nor age."]
    kinds = [f"sensitivity/{label}" for label in found["labels"]]
    made: list[str | Table] = []
    for trait in dict.fromkeys(row["trait"] for row in rows):
        cells = [
            [
                row["group"],
                row["n"],
                *(number(row.get(key)) for key in ("mean_auc", "balanced_accuracy", *kinds)),
            ]
            for row in rows
            if row["trait"] == trait
        ]
        head = [trait, "n", "mean AUC", "balanced accuracy", *(k.replace("/", ", ") for k in kinds)]
        made.append(make_table(f"By {trait}", head, cells))
    return made


def draw_plots(found: Mapping[str, Any], answers: "Predictions") -> dict[str, list[Plot]]:
    """The plots, by section."""
    known = answers.labelled
    return {
        "classes": [
            Plot(
                plots.roc_curves(known.probabilities, known.truth, found["labels"]),
                "ROC curves. "
                + ", ".join(
                    f"{label}: AUC {number(found['figures'][f'auc/{label}']['value'])}"
                    for label in found["labels"]
                ),
                "ROC curve of each label against the rest; the dotted line is chance.",
            )
        ],
        "calibration": [
            Plot(
                plots.reliability(known.uncalibrated, known.probabilities, known.truth),
                f"Reliability diagram. {calibration_text(found)}",
                "Before and after temperature scaling. Hollow marks stand for few images.",
            )
        ],
        "abstention": [
            Plot(
                plots.risk_coverage(found["risk_coverage"], found["abstention"]),
                f"Coverage against risk. {abstention_text(found)}",
                "Share of wrong answers among the surest; the square is where the card's thresholds"
                " put it.",
            )
        ],
    }
