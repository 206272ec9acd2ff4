"""The output of `macule evaluate`: an HTML page, and lines for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from macule.convert.evaluation.predictions import SKIN_TONE, Predictions
from macule.convert.report import pages, plots
from macule.convert.report.formatting import Cell, Table, make_table, number, percent
from macule.convert.report.pages import Plot
from macule.convert.report.sections import Section, make_section

DISCLAIMER = (
    "Research demonstration, not a medical device. The figures are for the images named here;"
    " expect worse figures for other skin types or cameras."
)
ROBUSTNESS = (
    "Each change leaves the lesion as it is. The copy is saved as a file, decoded and classified as"
    " in production, and compared with the answer to the original file. An answer is the most"
    " likely label, for all decisions."
)
SKIN_TONE_NOTE = (
    "Skin tone is an estimate from the photo: the individual typology angle (ITA) of the skin at"
    " its border. It depends on exposure, light and white balance, and is not a measurement of the"
    " person."
)
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


def lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the metrics as lines for the terminal."""
    yield from (f"warning: {text}" for text in warnings(metrics))
    yield f"{metrics['model']['name']} on {metrics['n']} images, {interval_note(metrics)}"
    for name, title in OVERALL.items():
        yield f"  {title:<24} {with_interval(metrics['figures'][name])}"
    for label, count in metrics["n_per_label"].items():
        yield f"{label}, n = {count}"
        for name, title in COLUMNS.items():
            yield f"  {title:<32} {with_interval(metrics['figures'][f'{name}/{label}'])}"
    yield abstention_text(metrics)
    if metrics["robustness"]:
        yield robustness_text(metrics["robustness"])


def page(metrics: Mapping[str, Any], predictions: Predictions) -> str:
    """Render the metrics as one self-contained HTML page."""
    model, images = metrics["model"], f"{metrics['n']} images of {metrics['data']}"
    return pages.render(
        "evaluation.html",
        title=f"{model['name']} {model['version']} ({model['precision']})",
        kicker=f"macule evaluate, {metrics['date']}: {images}, {interval_note(metrics)}",
        disclaimer=DISCLAIMER,
        warnings=warnings(metrics),
        figures=key_figures(metrics),
        sections=sections(metrics),
        drawings=draw_plots(metrics, predictions),
        command=metrics["command"],
    )


def warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Return what makes the figures unreliable."""
    fitted = metrics["fitted_images"]
    if not fitted:
        return []
    total = sum(sum(row.values()) for row in metrics["decisions"].values())
    return [
        f"{fitted} of {total} images were used to fit this model; figures of such images are too"
        " good. Use images that it has not seen."
    ]


def key_figures(metrics: Mapping[str, Any]) -> Table:
    figures = metrics["figures"]
    rows = [[title, *value_and_interval(figures[name])] for name, title in OVERALL.items()]
    return make_table("Key figures", ["figure", "value", "interval"], rows, "words")


def interval_note(metrics: Mapping[str, Any]) -> str:
    return f"95 % intervals by bootstrap over each {metrics['resampled_by']}"


def with_interval(figure: Mapping[str, float]) -> str:
    value, span = value_and_interval(figure)
    return f"{value} ({span})"


def value_and_interval(figure: Mapping[str, float]) -> tuple[str, str]:
    value, low, high = (number(figure[key]) for key in ("value", "low", "high"))
    return value, f"{low} to {high}"


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    return [
        make_section("classes", "Each label", class_table(metrics)),
        make_section("confusion", "Confusion", confusion_table(metrics)),
        make_section("calibration", "Calibration", calibration_text(metrics)),
        make_section("abstention", "Abstention", abstention_text(metrics), decision_table(metrics)),
        make_section("robustness", "Robustness", *robustness_tables(metrics["robustness"])),
        make_section("subgroups", "Subgroups", *subgroup_tables(metrics)),
    ]


def class_table(metrics: Mapping[str, Any]) -> Table:
    rows = [
        [label, count, *(with_interval(metrics["figures"][f"{name}/{label}"]) for name in COLUMNS)]
        for label, count in metrics["n_per_label"].items()
    ]
    return make_table("One label against the rest", ["label", "n", *COLUMNS.values()], rows)


def confusion_table(metrics: Mapping[str, Any]) -> Table:
    """Count labels by most likely answer; the tint is the share of the row."""
    rows = []
    for label, counts in zip(metrics["labels"], metrics["confusion"], strict=True):
        total = max(sum(counts), 1)
        rows.append([label, *(Cell(str(count), count / total) for count in counts)])
    caption = "Most likely answer, for all decisions"
    return make_table(caption, ["label", *metrics["labels"]], rows, "matrix")


def calibration_text(metrics: Mapping[str, Any]) -> str:
    before, after = metrics["ece_before_temperature"], metrics["figures"]["ece"]["value"]
    return (
        f"Expected calibration error of the top answer: {number(before)} before and"
        f" {number(after)} after temperature {number(metrics['model']['temperature'])};"
        f" {metrics['ece_bins']} bins of equal width. With this number of images, a perfectly"
        f" calibrated model would show {number(metrics['ece_by_chance'])} by chance."
    )


def abstention_text(metrics: Mapping[str, Any]) -> str:
    abstention = metrics["abstention"]
    return (
        f"{percent(abstention['coverage'])} are classified; of these,"
        f" {percent(abstention['accuracy_of_classified'])} are correct, of all images"
        f" {percent(abstention['accuracy_of_all'])}."
        f" {percent(abstention['not_skin'])} are not_skin."
    )


def decision_table(metrics: Mapping[str, Any]) -> Table:
    rows = [[label, *counts.values()] for label, counts in metrics["decisions"].items()]
    names = list(next(iter(metrics["decisions"].values())))
    return make_table("Decisions", ["label", *names], rows)


def robustness_text(found: Mapping[str, Any]) -> str:
    """Name the kinds of change with the largest shares."""
    compared = [row for row in found["kinds"] if row["n"]]
    if not compared:
        return "Robustness: no image could be changed."
    most = {}
    for name in ("answers_changed", "decisions_changed"):
        row = max(compared, key=lambda row: row[name])
        most[name] = f"at most {percent(row[name])} of the copies of a kind ({row['kind']})"
    return (
        f"Robustness of {found['images']} images: the most likely label changes in"
        f" {most['answers_changed']}, the decision in {most['decisions_changed']}."
    )


def robustness_tables(found: Mapping[str, Any] | None) -> list[str | Table]:
    """Return the shares of changed answers by kind and by change, or a sentence."""
    if not found:
        return ["Not measured (--robustness 0)."]
    columns = ["n", "answers changed", "decisions changed"]

    def shares(row: Mapping[str, Any]) -> list[Any]:
        return [row["n"], percent(row["answers_changed"]), percent(row["decisions_changed"])]

    kinds = [[row["kind"], *shares(row)] for row in found["kinds"]]
    changes = [[f"{row['kind']}, {row['change']}", *shares(row)] for row in found["changes"]]
    return [
        robustness_text(found),
        ROBUSTNESS,
        make_table("By kind of change; n counts changed copies", ["kind", *columns], kinds),
        make_table("By change", ["change", *columns], changes),
    ]


def subgroup_tables(metrics: Mapping[str, Any]) -> list[str | Table]:
    """Return one table per trait, or a sentence if there are none."""
    columns = {"mean_auc": "mean AUC", "balanced_accuracy": "balanced accuracy"}
    columns |= {f"sensitivity/{label}": f"sensitivity, {label}" for label in metrics["labels"]}
    traits: dict[str, list[list[Any]]] = {}
    for row in metrics["subgroups"]:
        cells = [row["group"], row["n"], *(number(row[key]) for key in columns)]
        traits.setdefault(row["trait"], []).append(cells)
    if not traits:
        return ["labels.csv has no columns for sex and age."]
    return [
        *([SKIN_TONE_NOTE] if SKIN_TONE in traits else []),
        *(
            make_table(f"By {trait}", [trait, "n", *columns.values()], rows)
            for trait, rows in traits.items()
        ),
    ]


def draw_plots(metrics: Mapping[str, Any], predictions: Predictions) -> dict[str, list[Plot]]:
    known, labels = predictions.labelled, metrics["labels"]
    areas = [f"{name}: AUC {number(metrics['figures'][f'auc/{name}']['value'])}" for name in labels]
    curves = Plot(
        plots.roc_curves(known.probabilities, known.truth, labels),
        f"ROC curves. {', '.join(areas)}",
        "ROC curve of each label against the rest; the dotted line is a random classifier.",
    )
    diagram = Plot(
        plots.reliability(known.uncalibrated, known.probabilities, known.truth),
        f"Reliability diagram. {calibration_text(metrics)}",
        "Before and after temperature scaling. Hollow markers have few images.",
    )
    risk = Plot(
        plots.risk_coverage(metrics["risk_coverage"], metrics["abstention"]),
        f"Coverage against risk. {abstention_text(metrics)}",
        "Share of wrong answers for each coverage; the square shows the card's thresholds.",
    )
    return {"classes": [curves], "calibration": [diagram], "abstention": [risk]}
