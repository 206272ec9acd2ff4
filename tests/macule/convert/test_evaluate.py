"""`macule evaluate`: figures computed by hand, and the command with a real model."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from macule.convert.evaluation import fitted, metrics, predictions
from macule.convert.evaluation.dataset import Photo
from macule.convert.evaluation.pixels import skin_tone
from macule.registry import local, model_card
from support.images import skin

MACULE = [sys.executable, "-m", "macule.cli", "evaluate"]
LABELS = ["nevus", "melanoma", "seborrheic_keratosis"]


def answers(count: int = 60) -> predictions.Predictions:
    """Return seeded answers of the shipped card's labels, correct two times of three."""
    random = np.random.default_rng(3)
    truth = np.arange(count) % 3
    logits = random.normal(0, 1, (count, 3)) + 1.5 * np.eye(3)[truth]
    photos = [
        Photo(Path(f"{i}.jpg"), LABELS[truth[i]], "", {"lesion": str(i // 2), "sex": "fm"[i % 2]})
        for i in range(count)
    ]
    decisions = np.where(np.arange(count) % 4, "classified", "inconclusive")
    card = model_card.read(local.DEFAULT_MODEL_DIR)
    tones = np.where(np.arange(count) % 2, "tan", "very light")
    probabilities = metrics.softmax(logits)
    return predictions.Predictions(card, photos, probabilities, decisions, truth, 0, tones)


def test_figures_lie_within_their_intervals() -> None:
    """Every figure is inside its interval, and those of all classes are the mean."""
    found = predictions.compute_metrics(answers(), 200)

    for name, part in found["figures"].items():
        if not name.startswith("ece"):
            assert part["low"] <= part["value"] <= part["high"], name
    areas = [found["figures"][f"auc/{label}"]["value"] for label in LABELS]
    assert found["figures"]["mean_auc"]["value"] == pytest.approx(sum(areas) / 3)
    assert found["resampled_by"] == "lesion"
    assert np.sum(found["confusion"]) == 60


def test_decisions_are_counted_by_label() -> None:
    """Coverage is the classified share, and each label's decisions sum to its images."""
    found = predictions.compute_metrics(answers(), 10)

    assert found["abstention"]["coverage"] == 0.75
    assert sum(found["decisions"]["melanoma"].values()) == 20
    groups = [row["group"] for row in found["subgroups"] if row["trait"] == "sex"]
    assert groups == ["f", "m"]


def test_skin_tones_are_a_subgroup() -> None:
    """Groups are listed from light to dark, and each has the images of its own tone."""
    found = predictions.compute_metrics(answers(), 10)

    rows = [row for row in found["subgroups"] if row["trait"] == predictions.SKIN_TONE]
    assert [(row["group"], row["n"]) for row in rows] == [("very light", 30), ("tan", 30)]


def test_unknown_skin_tones_are_no_subgroup() -> None:
    """If no photo has a group, the trait is left out."""
    unknown = answers()._replace(skin_tones=np.full(60, skin_tone.UNKNOWN))

    found = predictions.compute_metrics(unknown, 10)

    assert {row["trait"] for row in found["subgroups"]} == {"sex"}


def test_images_of_a_group_are_sampled_together() -> None:
    """Two images of each lesion give an interval as wide as one image of each."""
    values = np.random.default_rng(1).normal(size=50)
    twins = np.repeat(values, 2)

    def figures(images: np.ndarray) -> dict[str, float]:
        return {"mean": float(twins[images].mean())}

    together = metrics.bootstrap_intervals(figures, [str(i // 2) for i in range(100)])["mean"]
    apart = metrics.bootstrap_intervals(figures, [str(i) for i in range(100)])["mean"]

    ratio = (together[1] - together[0]) / (apart[1] - apart[0])
    assert ratio == pytest.approx(math.sqrt(2), rel=0.15)


def test_risk_grows_with_coverage() -> None:
    """The most confident answers come first, and those of equal confidence together."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])

    points = metrics.risk_coverage(probabilities, np.array([0, 1, 0, 1]))

    assert points == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]


def test_ages_are_grouped() -> None:
    """Ages are grouped by twenty years; an invalid age is unknown."""
    spans = {
        "55": "40 to 59",
        "55.0": "40 to 59",
        "5": "00 to 19",
        "": "unknown",
        "old": "unknown",
    }

    assert {text: predictions.subgroup_name("age_approx", text) for text in spans} == spans


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder of drawn skin for each class, one unknown label and a broken file."""
    for place, label in enumerate([*LABELS, "screenshot"]):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            path = tmp_path / "data" / label / f"{number}.png"
            skin(80 + 10 * number, 70 + place).save(path)
    (tmp_path / "data" / "nevus" / "broken.png").write_bytes(b"no image")
    return tmp_path


def test_command_writes_page_and_figures(folder: Path) -> None:
    """It prints the figures, and writes JSON and a page without external resources."""
    line = [*MACULE, local.DEFAULT_MODEL_DIR, "--data", "data", "--resamples", "20"]
    line += ["--robustness", "2"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "balanced accuracy" in done.stdout
    assert "Robustness of 2 images" in done.stdout
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert (found["n"], found["broken"], found["fitted_images"]) == (12, 1, 0)
    assert "warning" not in done.stdout
    assert set(found["decisions"]) == {*LABELS, "screenshot"}
    page = (folder / "evaluation" / "evaluation.html").read_text()
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert found["robustness"]["images"] == 2
    changes = {row["change"] for row in found["robustness"]["changes"]}
    assert [name for name in changes if name not in page] == []


def test_robustness_can_be_left_out(folder: Path) -> None:
    """With 0, no copies are made, and the page says so."""
    line = [*MACULE, local.DEFAULT_MODEL_DIR, "--data", "data", "--resamples", "20"]
    line += ["--robustness", "0"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "Robustness" not in done.stdout
    assert json.loads((folder / "evaluation" / "evaluation.json").read_text())["robustness"] is None
    assert "Not measured" in (folder / "evaluation" / "evaluation.html").read_text()


def test_fitted_images_are_a_warning(folder: Path) -> None:
    """Images of the model's list are counted on the terminal, the page and in the figures."""
    shutil.copytree(local.DEFAULT_MODEL_DIR, folder / "model")
    fitted.write(folder / "model", (folder / "data" / "nevus").glob("?.png"))
    line = [*MACULE, "model", "--data", "data", "--resamples", "5"]

    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    warned = "4 of 16 images were used to fit this model; figures of such images are too good."
    assert done.stdout.startswith(f"warning: {warned}")
    assert warned in (folder / "evaluation" / "evaluation.html").read_text()
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert found["fitted_images"] == 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--data", "nowhere"], "nowhere is not a folder."),
        (
            ["--data", "data/screenshot"],
            "The labels of the images are (none), those of the model nevus",
        ),
        (["--data", "data", "--robustness", "-1"], "--robustness is -1; it must be 0 or more."),
        (["--data", "data", "--split", "test"], "data has no split 'test'; it has: none."),
    ],
)
def test_wrong_data_is_rejected(folder: Path, more: list[str], expected: str) -> None:
    """One sentence says what is wrong, and nothing is written."""
    done = subprocess.run(
        [*MACULE, local.DEFAULT_MODEL_DIR, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert expected in done.stderr
    assert not (folder / "evaluation").exists()
