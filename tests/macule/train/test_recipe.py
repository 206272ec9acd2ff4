"""The complete recipe on drawn photos, with a backbone of two blocks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert.evaluation import dataset
from macule.train import __main__ as program
from macule.train import backbone, data, recipe
from PIL import Image

pytestmark = pytest.mark.slow  # it trains

SIDE_PX = 64
LABELS = ["round", "square", "striped"]


def no_output(line: str) -> None:
    """Print no progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create 45 photos of three drawn shapes with `labels.csv`; one row has no image."""
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
    """Draw a noisy 80 x 80 picture of *label*."""
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
def network() -> recipe.Network:
    """Use a backbone of two blocks for every size."""
    keras = pytest.importorskip("keras")

    def build(side_px: int) -> Any:
        keras.utils.set_random_seed(2)
        return backbone.build(side_px, ((3, 2, 1, 16, 1), (3, 2, 4, 24, 1)), 64)

    return recipe.Network(build, "blocks_0_project_conv")


def run(folder: Path, network: recipe.Network, out: Path, *more: str) -> dict[str, Any]:
    """Run the recipe for two seeds of three epochs."""
    line = [str(folder), "--out", str(out), "--weights", "random", "--side", str(SIDE_PX)]
    line += ["--side-px", "48", "--epochs", "3", "--seeds", "2", "--batch", "12", "--rate", "0.001"]
    return program.train(program.parse([*line, *more]), network, no_output)


@pytest.fixture(scope="module")
def made(folder: Path, network: recipe.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the recipe wrote."""
    out = tmp_path_factory.mktemp("out")
    run(folder, network, out)
    return out


def test_the_card_describes_the_file(made: Path) -> None:
    """The card's digest, size, labels and counts match the training."""
    card = json.loads((made / "model.json").read_text())
    content = (made / "model.tflite").read_bytes()

    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["bytes"] == len(content)
    assert card["labels"] == LABELS
    assert card["names"]["en"] == LABELS
    assert card["scaling"] == {"mean": [127, 127, 127], "std": [128, 128, 128]}
    assert card["training"]["splits"]["val"] == {"round": 3, "square": 3, "striped": 3}
    assert 0 < card["thresholds"]["inconclusive"] <= 1


def test_the_card_is_valid_for_serving(made: Path) -> None:
    """The service's own reader accepts the card."""
    from macule.registry import model_card

    card = model_card.read(str(made))

    assert list(card.labels) == LABELS


def test_metrics_cover_every_precision(made: Path) -> None:
    """Each precision has its metrics, their n, its size and its difference from fp32."""
    files = json.loads((made / "metrics.json").read_text())["files"]

    assert set(files) == {"fp32", "fp16", "int8", "int8_plain"}
    assert files["fp32"]["against_fp32"]["top1_agreement"] == 1.0
    assert all(figures["n"] == 9 and figures["bytes"] > 0 for figures in files.values())
    assert files["int8"]["ece_bins"] == 15


def test_the_recipe_is_repeatable(
    folder: Path, network: recipe.Network, made: Path, tmp_path: Path
) -> None:
    """A second run with the same seeds gives the same card, except for noise in the digest."""
    first = json.loads((made / "model.json").read_text())

    second = run(folder, network, tmp_path)

    assert second["temperature"] == pytest.approx(first["temperature"], rel=0.05)
    assert second["metrics"]["mean_auc"] == pytest.approx(first["metrics"]["mean_auc"], abs=0.05)


def test_training_resumes_where_it_stopped(
    folder: Path, network: recipe.Network, tmp_path: Path
) -> None:
    """Finished steps are not repeated; a state of another plan is rejected with a fix."""
    messages: list[str] = []
    line = [str(folder), "--out", str(tmp_path), "--weights", "random", "--side", str(SIDE_PX)]
    line += ["--side-px", "48", "--epochs", "2", "--seeds", "1", "--batch", "12"]

    program.train(program.parse(line), network, messages.append)
    curves = (tmp_path / "work" / "seed-0" / "curves.csv").read_text()
    messages.clear()
    program.train(program.parse(line), network, messages.append)

    assert "continuing after epoch 2" in messages
    assert (tmp_path / "work" / "seed-0" / "curves.csv").read_text() == curves
    with pytest.raises(ValueError, match="use another --work, or the same options"):
        program.train(program.parse([*line, "--epochs", "9"]), network, no_output)


def test_the_card_has_ood_thresholds(folder: Path, made: Path) -> None:
    """The card has its thresholds, and noise is out of distribution."""
    from macule.inference import classification, runtime

    runtime.by_pid.clear()
    warm = runtime.get_or_load(str(made))
    noise = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    scores = runtime.run(warm, Image.fromarray(noise))
    runtime.by_pid.clear()

    assert 0 < warm.card.unfamiliar_above <= warm.card.not_skin_above
    verdict = classification.decide(warm.card, 1.0, scores.distance, scores.clinical)
    assert verdict.decision == "not_skin"


def test_classes_are_balanced() -> None:
    """A bias against the rarer class is found and corrected."""
    random = np.random.default_rng(4)
    truth = np.repeat([0, 1], [300, 100])
    evidence = random.normal(0, 1, 400) + np.where(truth == 1, 1.0, -1.0)
    logits = np.stack([0 * evidence, 2 * evidence - 3], axis=1).astype(np.float32)

    shift = recipe.fit_bias_shift(logits, truth)
    named = (logits + shift).argmax(axis=1)

    assert shift[0] == 0
    assert (logits.argmax(axis=1)[truth == 1] == 1).mean() < 0.45
    assert (named[truth == 1] == 1).mean() > 0.7
    assert (named[truth == 0] == 0).mean() > 0.75


def test_averaging_keeps_the_better_runs(network: recipe.Network) -> None:
    """The worse of two runs is dropped if their mean is worse than the better one."""
    body = network.build(SIDE_PX)
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (12, SIDE_PX, SIDE_PX, 3), np.uint8)
    inner = body.get_weights()
    good = [*inner, random.normal(0, 0.1, (64, 3)).astype(np.float32), np.zeros(3, np.float32)]
    truth = recipe.predict_logits(body, good, pixels).argmax(axis=1)
    bad = [*inner, -good[-2], good[-1]]

    kept, best = recipe.average_runs(
        body, [bad, good], data.LabelledImages(pixels, truth), no_output
    )

    assert kept == [1]
    np.testing.assert_array_equal(best[-2], good[-2])


def test_centre_squares_become_frames(tmp_path: Path) -> None:
    """A lesion with only its centre square is found, and mirrored to a whole frame."""
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "b.png")
    rows = ["lesion,label,split,squashed,cropped", "1,round,train,a.png,", "2,square,extra,,b.png"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")

    photos = dataset.list_photos(tmp_path, "squashed")
    centred = data.cropped_photos(tmp_path, photos)
    decoded = data.decode_photos(centred, LABELS, SIDE_PX, frozenset(p.path for p in centred))

    assert [photo.path.name for photo in centred] == ["b.png"]
    assert decoded.pixels.shape == (1, SIDE_PX, SIDE_PX, 3)
    assert (decoded.pixels == (200, 10, 10)).all()


def test_imagenet_weights_fill_the_backbone() -> None:
    """Every layer of Lite0 takes its arrays from the package's file."""
    pytest.importorskip("keras")
    try:
        backbone.find_weights()
    except FileNotFoundError as error:
        pytest.skip(str(error))

    network = backbone.imagenet(64)

    assert network.output_shape == (None, 2, 2, 1280)
    assert network.count_params() == 3_350_000


def test_the_page_has_the_measured_figures(made: Path) -> None:
    """The files beside the weights have everything that the model card's page needs."""
    from macule.train import card_page

    found = json.loads((made / "evaluation.json").read_text())

    assert found["n"] == 9
    assert sum(found["drawn"][name] for name in ("classified", "inconclusive", "not_skin")) == 210
    assert len((made / "curves.csv").read_text().splitlines()) == 1 + 2 * 3
    assert card_page.TEMPLATE.exists()
