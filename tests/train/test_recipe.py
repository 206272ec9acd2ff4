"""The whole recipe on drawn photos, with a backbone of two blocks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from train import __main__ as program
from train import backbone, data, head

SIDE_PX = 64
LABELS = ["round", "square", "striped"]


def quiet(line: str) -> None:
    """Say nothing of the recipe's progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 photos of three drawn shapes with `labels.csv`; one row has no image."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(5)
    lines = ["label,split,image"]
    for place in range(45):
        label = LABELS[place % 3]
        split = "val" if place % 5 == 0 else "train"
        pixels = np.clip(draw(label, random), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        lines.append(f"{label},{split},{place}.png")
    (folder / "labels.csv").write_text("\n".join([*lines, "round,extra,"]) + "\n")
    return folder


def draw(label: str, random: np.random.Generator) -> Any:
    """A noisy 80 x 80 picture of *label*."""
    y, x = np.mgrid[:80, :80] - 40 + random.uniform(-6, 6)
    size = random.uniform(14, 26)
    inside = {
        "round": x**2 + y**2 < size**2,
        "square": np.maximum(abs(x), abs(y)) < size,
        "striped": np.sin(x * 0.8) > 0,
    }[label]
    ground = np.where(inside[..., None], [110, 70, 50], [220, 180, 160])
    return ground + random.normal(0, 12, (80, 80, 3))


@pytest.fixture(scope="module")
def body() -> Any:
    """A seeded backbone of two blocks."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(2)
    return backbone.build(SIDE_PX, ((3, 2, 1, 16, 1), (3, 2, 4, 24, 1)), 64)


@pytest.fixture(scope="module")
def made(folder: Path, body: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the recipe wrote."""
    out = tmp_path_factory.mktemp("out")
    line = [str(folder), "--out", str(out), "--weights", "random", "--side", str(SIDE_PX)]
    program.train(program.parse(line), body, quiet)
    return out


def test_card_describes_the_file(made: Path) -> None:
    """The card's digest, size, labels and counts are those of what was trained."""
    card = json.loads((made / "model.json").read_text())
    content = (made / "model.tflite").read_bytes()

    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["bytes"] == len(content)
    assert card["labels"] == LABELS
    assert card["names"]["en"] == LABELS
    assert card["scaling"] == {"mean": [127, 127, 127], "std": [128, 128, 128]}
    assert card["training"]["splits"]["val"] == {"round": 3, "square": 3, "striped": 3}
    assert 0 < card["thresholds"]["inconclusive"] <= 1


def test_card_is_read_by_the_service(made: Path) -> None:
    """The serving side's own reader accepts the card."""
    from macule import manifest

    card = manifest.read(str(made))

    assert list(card.labels) == LABELS


def test_metrics_cover_every_precision(made: Path) -> None:
    """Each precision has its figures, their n, its size and its distance from fp32."""
    files = json.loads((made / "metrics.json").read_text())["files"]

    assert set(files) == {"fp32", "fp16", "int8", "int8_float_head", "int8_plain"}
    assert files["fp32"]["against_fp32"]["top1_agreement"] == 1.0
    assert all(figures["n"] == 9 and figures["bytes"] > 0 for figures in files.values())
    assert files["int8"]["ece_bins"] == 15


def test_recipe_repeats_itself(folder: Path, body: Any, made: Path, tmp_path: Path) -> None:
    """A second run with the same seed gives the same card, but for the digest's noise."""
    line = [str(folder), "--out", str(tmp_path), "--weights", "random", "--side", str(SIDE_PX)]
    first = json.loads((made / "model.json").read_text())

    second = program.train(program.parse(line), body, quiet)

    assert second["temperature"] == pytest.approx(first["temperature"], rel=0.01)
    assert second["metrics"]["mean_auc"] == pytest.approx(first["metrics"]["mean_auc"], abs=0.01)


def test_head_separates_and_balances() -> None:
    """With 90 to 10 overlapping samples the rarer class is still found, as often as the other."""
    random = np.random.default_rng(4)
    truth = np.repeat([0, 1], [900, 100])
    features = random.normal(size=(1000, 2)).astype(np.float32) + truth[:, None].astype(np.float32)

    fitted = head.fit(features, truth, 2, 0.001)
    named = fitted.logits(features).argmax(axis=1)

    assert (named[truth == 1] == 1).mean() == pytest.approx(
        (named[truth == 0] == 0).mean(), abs=0.1
    )


def test_rows_without_an_image_are_left_out(folder: Path) -> None:
    """A row with an empty path is no photo; labels keep the order of the file."""
    photos, column = data.read(folder, None)

    assert len(photos) == 45
    assert column == "image"
    assert data.labels(photos) == LABELS


def test_imagenet_weights_fill_the_backbone() -> None:
    """Every layer of Lite0 takes its arrays from the package's file."""
    pytest.importorskip("keras")
    try:
        backbone.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))

    network = backbone.imagenet(64)

    assert network.output_shape == (None, 2, 2, 1280)
    assert network.count_params() == 3_413_024
