"""The report of a conversion: complete in both formats, honest about gaps, and safe."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert.evaluation import metrics
from macule.convert.report import markdown, pages

HOSTILE = '<script>alert("1")</script>|*x* $y$ `z` ![i](http://evil.example/a.png) nốt ruồi'
LABELS = ["nevus", "melanoma", "seborrheic_keratosis"]


class Reader(HTMLParser):
    """Collects tags, every attribute that could load a resource, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        self.fetched += [
            value or ""
            for name, value in attrs
            if name in {"action", "data", "href", "poster", "src", "srcset", "xlink:href"}
        ]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def evidence(labels: list[str] | None = None, count: int = 150, noise: float = 0.1) -> Any:
    """Return the evidence of a conversion in which the second candidate is chosen."""
    labels = labels or LABELS
    classes = len(labels)
    draw = np.random.default_rng(7)
    truth = draw.integers(0, classes, count)
    logits = draw.normal(size=(count, classes)) + 2 * np.eye(classes)[truth]
    before = metrics.softmax(logits)
    after = metrics.softmax(logits + draw.normal(size=logits.shape) * noise)
    compared = metrics.compare_probabilities(after, before)

    def judged(part: Any) -> dict[str, Any]:
        predicted = part.argmax(axis=1)
        return {
            "accuracy": float((predicted == truth).mean()),
            "balanced_accuracy": float(np.nanmean(metrics.sensitivity(predicted, truth, classes))),
            "auc": {
                label: metrics.auc(part[:, index], truth == index)
                for index, label in enumerate(labels)
            },
        }

    def tried(name: str, size: int, failed: list[str], chosen: bool) -> dict[str, Any]:
        return {
            "name": name,
            "precision": "int8",
            "size_mb": size / 2**20,
            "agreement": compared["top1_agreement"],
            "mean_change": compared["mean_change"],
            "max_change": compared["max_change"],
            "load_ms": 12.3,
            "p50_ms": {1: 9.6, 2: 5.7},
            "peak_mb": 63.9,
            "failed": failed,
            "chosen": chosen,
            **judged(after),
        }

    pixels = draw.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    grid = draw.normal(size=(7, 7))
    return {
        "title": "lesion",
        "command": "macule convert lesion.keras --out build",
        "date": "2026-11-23",
        "versions": {"keras": "3.15.1"},
        "card": {
            "name": "lesion",
            "labels": labels,
            "names": {"en": labels, "vi": ["nốt ruồi"] * classes},
            "side_px": [224, 300],
            "resize": "squash",
            "channels": "rgb",
            "scaling": {"mean": [127, 127, 127], "std": [128, 128, 128]},
            "precision": "int8",
            "sha256": "01bca2239f" * 6,
            "bytes": 3978208,
            "temperature": 1.0,
            "thresholds": {"inconclusive": 0.5},
            "cam": {"faithful": True, "head": "gap-dense", "max_error": 0.0001},
        },
        "source": {
            "file": "lesion.keras",
            "kind": "Keras 3",
            "size_mb": 16.2,
            "inside": ["Rescaling"],
            "output": "softmax",
        },
        "findings": [
            {"level": "info", "text": "Channels are RGB (likely)."},
            {"level": "warning", "text": "The label order is assumed."},
        ],
        "scaling": {
            "chosen": "-1..1",
            "why": "Best by 12 points.",
            "n": count,
            "table": [
                {"name": "-1..1", "accuracy": 0.81, "balanced_accuracy": 0.7, "confidence": 0.6}
            ],
        },
        "images": {"calibration": 128, "evaluation": count, "note": "Both from one folder."},
        "original": {"name": "original (Keras 3)", "size_mb": 16.2, **judged(before)},
        "candidates": [
            tried("int8", 3978208, ["agreement is too low"], False),
            tried("int8, float head", 4078208, [], True),
        ],
        "gate": {"agreement": 0.9, "mean_change": 0.05, "lost": 0.05, "limit_mb": 512.0},
        "probabilities": {"before": before, "after": after},
        "truth": truth,
        "maps": [
            {"image": pixels, "before": grid, "after": grid, "label": labels[0]},
            {"image": pixels, "before": None, "after": grid, "label": labels[1]},
        ],
    }


def unlabelled() -> Any:
    """Return the evidence of a conversion with images but without labels."""
    found = evidence() | {"truth": None}
    found["scaling"] |= {"n": 0, "table": []}
    nothing = {"accuracy": None, "balanced_accuracy": None, "auc": None}
    found["original"] |= nothing
    for candidate in found["candidates"]:
        candidate |= nothing
    return found


def report_texts(folder: Path, found: Any) -> list[str]:
    """Write the report; return the text of both files, of the page as a reader sees it."""
    pages.write(folder, found)
    page = Reader((folder / "report.html").read_text("utf-8"))
    return [(folder / "REPORT.md").read_text("utf-8"), page.text]


def test_both_files_have_the_facts(tmp_path: Path) -> None:
    """Verdict, sizes, agreement, limits, findings, card and command are in both files."""
    found = evidence()
    same = round(found["candidates"][1]["agreement"] * 150)
    facts = [
        "“int8, float head” passes all gates.",
        "3.89 MB",
        "16.2 MB before, 4.2× smaller",
        f"{same} of 150 images",
        "at least 90.0 %",
        "at most 512 MB",
        "✓ passed",
        "Channels are RGB (likely).",
        "The label order is assumed.",
        "int8 failed: agreement is too low.",
        "9.60 ms",
        "63.9 MB",
        "224 × 300 px (height × width)",
        "gap-dense",
        found["card"]["sha256"],
        "128 for calibration, 150 for evaluation",
        "81.0 %",
        "15 bins of equal width, n = 150",
        "nốt ruồi",
        found["command"],
        "not a medical device",
    ]

    for text in report_texts(tmp_path, found):
        assert [fact for fact in facts if fact not in text] == []


def test_figures_are_correct(tmp_path: Path) -> None:
    """Calibration errors, changed answers and the confusion matrix match the arrays."""
    found = evidence(noise=0.6)
    before, after = (found["probabilities"][key] for key in ("before", "after"))
    truth = found["truth"]
    was, now = before.argmax(axis=1), after.argmax(axis=1)
    errors = [metrics.calibration_error(part, truth) for part in (before, after)]
    other = was != now
    right, wrong = int((other & (now == truth)).sum()), int((other & (was == truth)).sum())
    counts = [int(((truth == 1) & (now == index)).sum()) for index in range(3)]

    text, page = report_texts(tmp_path, found)

    for one in (text, page):
        assert f"{errors[0]:.3f} before and {errors[1]:.3f} after" in one
        assert f"changed on {other.sum()} of 150 images" in one
        assert f"{right} became right, {wrong} became wrong" in one
    after_table = text[text.index("**After: the converted file") :]
    assert re.search(rf"\| melanoma +\| {counts[0]} +\| {counts[1]} +\| {counts[2]} ", after_table)


@pytest.mark.parametrize("found", [evidence(), evidence([HOSTILE, *LABELS[1:]]), unlabelled()])
def test_the_page_loads_nothing(tmp_path: Path, found: Any) -> None:
    """The page has no script, no handler and no external address."""
    pages.write(tmp_path, found)
    page = (tmp_path / "report.html").read_text("utf-8")
    reader = Reader(page)

    assert {"base", "embed", "form", "iframe", "link", "object", "script"} & reader.tags == set()
    assert [name for name in reader.names if name.startswith("on")] == []
    assert [url for url in reader.fetched if not url.startswith(("data:image/", "#"))] == []
    assert re.findall(r"@import|url\((?!#)", page) == []
    assert "default-src 'none'" in page


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    """Markup in a label, file name, finding or title is shown as text, in both files."""
    from markdown_it import MarkdownIt

    found = evidence([HOSTILE, *LABELS[1:]])
    found["title"] = found["source"]["file"] = found["card"]["name"] = HOSTILE
    found["findings"] = [{"level": "warning", "text": HOSTILE}]
    found["candidates"][1]["name"] = HOSTILE
    found["command"] = "macule convert '```\n# <b>'"
    text, page = report_texts(tmp_path, found)
    rendered = Reader(MarkdownIt("commonmark").enable("table").render(text))

    assert {"b", "em", "img", "script"} & rendered.tags == set()
    assert page.count(HOSTILE) >= 8
    assert rendered.text.count(HOSTILE) >= 8


def test_plain_text_is_not_escaped() -> None:
    """A label with underscores, a percentage and Vietnamese need no escapes."""
    assert markdown.escape("seborrheic_keratosis 98 % nốt ruồi") == (
        "seborrheic_keratosis 98 % nốt ruồi"
    )


def test_without_labels_the_report_says_so(tmp_path: Path) -> None:
    """Without labels there is no confusion matrix, the reason is given, and one limit is open."""
    for text in report_texts(tmp_path, unlabelled()):
        assert "No labelled images were given" in text
        assert "passes all gates that could be measured" in text
        assert "Not measured: greatest loss of a metric." in text
        assert "Before: the original" not in text


def test_without_maps_it_says_so(tmp_path: Path) -> None:
    """The report of a file without activation maps says that none were given."""
    for text in report_texts(tmp_path, evidence() | {"maps": []}):
        assert "No activation maps were given" in text


def test_synthetic_images_prove_nothing(tmp_path: Path) -> None:
    """Without images the agreement is never shown as measured on images."""
    found = unlabelled()
    found["images"] = {"calibration": 0, "evaluation": 0, "note": ""}

    for text in report_texts(tmp_path, found):
        assert "synthetic images, which prove nothing" in text
        assert "of 150 images; 95 %" not in text


def test_calibration_images_are_named_as_such(tmp_path: Path) -> None:
    """A comparison on the calibration images says so, with their number."""
    found = unlabelled()
    found["images"] = {"calibration": 150, "evaluation": 0, "note": ""}

    for text in report_texts(tmp_path, found):
        assert "Compared on the calibration images;" in text
        assert "of 150 images; 95 %" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"agreement": 0.5}, "was chosen although it fails a gate"),
        ({"failed": ["it is too slow"]}, "it is too slow"),
    ],
)
def test_a_failed_limit_is_never_green(tmp_path: Path, change: Any, words: str) -> None:
    """The verdict is bad if the figures or the limits' messages say so."""
    found = evidence()
    found["candidates"][1] |= change

    for text in report_texts(tmp_path, found):
        assert words in text
        assert "passes all gates" not in text
    assert 'class="verdict bad"' in (tmp_path / "report.html").read_text("utf-8")


def test_few_images_are_a_warning(tmp_path: Path) -> None:
    """If one changed answer would fail a limit, the first screen says so."""
    for text in report_texts(tmp_path, evidence(count=9)):
        assert "Only 9 images were compared" in text


def test_a_temperature_is_explained(tmp_path: Path) -> None:
    """If the served probabilities differ from the compared ones, both figures are named."""
    found = evidence()
    found["candidates"][1]["mean_change"] = 0.0001
    found["card"]["temperature"] = 1.7

    for text in report_texts(tmp_path, found):
        assert "The gate measured a mean change of 0.0001" in text
        assert "with temperature 1.7" in text


def test_the_guarantee_is_in_words(tmp_path: Path) -> None:
    """The bound is rounded down, with its confidence and coverage; the sets are a table."""
    found = evidence()
    found["card"]["metrics"] = {
        "ece_after": 0.0321,
        "folds": 5,
        "grouped_by": "patient",
        "guarantee": {
            "n": 150,
            "coverage": 0.7,
            "accuracy": 0.9523,
            "accuracy_at_least": 0.91279,
            "confidence": 0.9,
        },
        "prediction_sets": {"90": {"coverage": 0.92, "mean_labels": 1.25}},
    }

    for text in report_texts(tmp_path, found):
        assert (
            "Of what is answered, at least 91.2 % is right, with 90 % confidence; out of fold"
            in text
        )
        assert "70.0 % of 150 images are answered, and 95.2 % of these answers are right." in text
        assert "0.032, out of fold: the images were divided into 5 folds by patient" in text
        assert "Prediction sets, out of fold" in text
        assert "92.0 %" in text


def test_without_a_calibration_nothing_is_promised(tmp_path: Path) -> None:
    """A card without a guarantee has no sentence about it."""
    for text in report_texts(tmp_path, evidence()):
        assert "The temperature is not fitted" in text
        assert "Of what is answered" not in text


@pytest.mark.parametrize(("classes", "count"), [(7, 500), (40, 2000)])
def test_sizes_are_bounded(tmp_path: Path, classes: int, count: int) -> None:
    """With many classes and images the page stays below 1.5 MB and the text below 64 kB."""
    found = evidence([f"label_{index}" for index in range(classes)], count)
    found["maps"] = [found["maps"][0]] * 6
    text, _ = report_texts(tmp_path, found)

    assert (tmp_path / "report.html").stat().st_size < 1.5 * 2**20
    assert len(text) < 64 * 1024


@pytest.mark.parametrize("part", ["before", "after"])
def test_a_constant_model_can_be_drawn(tmp_path: Path, part: str) -> None:
    """Equal probabilities, a flat map and a class without images raise no warning."""
    found = evidence()
    other = {"before": "after", "after": "before"}[part]
    found["probabilities"][other] = found["probabilities"][part]
    found["truth"] = np.minimum(found["truth"], 1)
    found["maps"][0]["before"] = np.zeros((7, 7))

    for text in report_texts(tmp_path, found):
        assert "changed on 0 of 150 images" in text
