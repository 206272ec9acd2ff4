"""The complete recipe on drawn photos, with a backbone of two blocks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert.evaluation import fitted
from macule.train import __main__ as program
from macule.train import card_page, inputs, plan, recipe
from macule.train.images import views
from macule.train.network import backbone
from PIL import Image

pytestmark = pytest.mark.slow  # it trains

SIDE_PX = 64
LABELS = ["nevus", "melanoma", "seborrheic_keratosis"]  # round, square, striped
PHOTOS, CLINICAL_PHOTOS = 75, 12


def no_output(line: str) -> None:
    """Print no progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create photos of three drawn shapes with `labels.csv`; the last one is a copy of the first.

    In the folder `clinical` are photos of other colours, two of each patient.
    """
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(5)
    lines = ["label,image"]
    for place in range(PHOTOS):
        label = LABELS[place % 3]
        pixels = draw(label, random)
        save(pixels, folder / f"{place}.png")
        lines.append(f"{label},{place}.png")
    (folder / f"{PHOTOS - 3}.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "labels.csv").write_text("\n".join([*lines, "nevus,"]) + "\n")
    (folder / "clinical").mkdir()
    rows = ["image,label,patient_id"]
    for place in range(CLINICAL_PHOTOS):
        save(draw(LABELS[place % 3], random)[..., ::-1] * 0.7, folder / f"clinical/{place}.png")
        rows.append(f"{place}.png,other,{place // 2}")
    (folder / "clinical/labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def save(pixels: Any, path: Path) -> None:
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def draw(label: str, random: np.random.Generator) -> Any:
    """Draw a noisy 80 x 80 picture of *label*."""
    y, x = np.mgrid[:80, :80] - 40 + random.uniform(-6, 6)
    size = random.uniform(14, 26)
    inside = {
        "nevus": x**2 + y**2 < size**2,
        "melanoma": np.maximum(abs(x), abs(y)) < size,
        "seborrheic_keratosis": np.sin(x * 0.8) > 0,
    }[label]
    ground = np.where(inside[..., None], [110, 70, 50], [220, 180, 160])
    return ground + random.normal(0, 12, (80, 80, 3))


@pytest.fixture(scope="module")
def network() -> recipe.Network:
    """Use a backbone of two blocks for every size; the second one is trained."""
    keras = pytest.importorskip("keras")

    def build(side_px: int) -> Any:
        keras.utils.set_random_seed(2)
        return backbone.build(side_px, ((3, 2, 1, 16, 1), (3, 2, 4, 24, 1)), 64)

    return recipe.Network(build, "blocks_0_project_conv", "blocks_1_expand_conv")


def options(folder: Path, out: Path, *more: str) -> Any:
    """Return the options of a recipe of two epochs."""
    line = [str(folder), "--clinical", str(folder / "clinical"), "--out", str(out), "--jobs", "1"]
    line += ["--weights", "random", "--side", str(SIDE_PX), "--side-px", "48", "--epochs", "2"]
    return program.parse([*line, "--batch", "12", "--rate", "0.002", *more])


@pytest.fixture(scope="module")
def made(folder: Path, network: recipe.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the recipe wrote."""
    out = tmp_path_factory.mktemp("out")
    program.train(options(folder, out, "--page", str(out / "page.md")), network, no_output)
    return out


def test_the_card_describes_the_file(made: Path) -> None:
    """The card's digest, size, labels and counts match the training; the service accepts it."""
    from macule.registry import model_card

    card = json.loads((made / "model.json").read_text())
    content = (made / "model.tflite").read_bytes()

    assert list(model_card.read(str(made)).labels) == LABELS
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["bytes"] == len(content)
    assert card["names"]["en"][0].startswith("Mole")
    assert card["scaling"] == {"mean": [127, 127, 127], "std": [128, 128, 128]}
    assert card["training"]["lesions"] == dict.fromkeys(LABELS, PHOTOS // 3)
    assert card["thresholds"].keys() == {
        "inconclusive", "unfamiliar", "not_skin", "not_dermoscopic"
    }  # fmt: skip


def test_each_lesion_is_left_out_once(made: Path) -> None:
    """Each fold answers its own lesions, copies share a fold, and all lesions have figures."""
    given = inputs.load(made / "work")
    answers = recipe.load_held_out(made / "work")
    found = json.loads((made / "evaluation.json").read_text())

    assert answers.places.tolist() == list(range(PHOTOS))
    for run in recipe.RUNS:
        members, held = recipe.split(given, run)
        assert sorted([*members, *held]) == list(range(PHOTOS))
        assert bool(len(held)) == (run != recipe.ALL)
    assert given.fold_of[0] == given.fold_of[PHOTOS - 3]
    assert found["n"] == PHOTOS
    assert np.sum(found["confusion"]) == PHOTOS


def test_unseen_images_are_counted(made: Path) -> None:
    """Generated images and the clinical photos of other patients have their decisions."""
    found = json.loads((made / "evaluation.json").read_text())
    decisions = ("classified", "inconclusive", "not_skin")

    assert sum(found["drawn"][name] for name in decisions) == found["drawn"]["n"] == 210
    assert sum(found["clinical"][name] for name in decisions) == found["clinical"]["n"] == 6
    assert found["robustness"]["images"] > 0


def test_the_photos_of_the_fit_are_listed(folder: Path, made: Path) -> None:
    """All lesions and the clinical photos of the fit are listed, those of the other half not."""
    photos = inputs.list_photos(folder, None, folder / "clinical")

    assert fitted.count(made, [photo.path for photo in photos.fitted]) == PHOTOS + 6
    assert fitted.count(made, [photo.path for photo in photos.clinical_held]) == 0
    patients = [
        {photo.row["patient_id"] for photo in half}
        for half in (photos.clinical, photos.clinical_held)
    ]
    assert not patients[0] & patients[1]


def test_the_page_has_the_measured_figures(made: Path) -> None:
    """The page is rendered from the files beside the weights, with its plot and the curves."""
    assert (made / "page.md").read_text() == card_page.render(made)
    assert "<svg" in (made / "page.svg").read_text()
    assert len((made / "curves.csv").read_text().splitlines()) == 1 + len(recipe.RUNS) * 2


def test_training_goes_on_where_it_stopped(
    folder: Path, network: recipe.Network, made: Path
) -> None:
    """Finished steps are not repeated, and the file is the same; another plan is rejected."""
    messages: list[str] = []
    before = (made / "model.tflite").read_bytes()
    (made / "work/fold-1/held_out.npz").unlink()

    program.train(options(folder, made), network, messages.append)

    assert not [line for line in messages if "epoch 1 of" in line or "views" in line]
    assert (made / "model.tflite").read_bytes() == before
    with pytest.raises(ValueError, match="use another --work, or the same options"):
        program.train(options(folder, made, "--epochs", "9"), network, no_output)


def test_the_recipe_is_repeatable(
    folder: Path, network: recipe.Network, made: Path, tmp_path: Path
) -> None:
    """Training from scratch gives the same weights, except for rounding."""
    given = inputs.load(made / "work")
    small = plan.TrainingPlan(side_px=48, epochs=2, batch=12, rate=0.002)
    given.save(tmp_path)

    for epoch in range(small.epochs):
        recipe.compute_views(network, small, tmp_path, epoch, no_output)
    first, second = (
        recipe.train(network, small, work, recipe.RUNS[0], no_output)
        for work in (made / "work", tmp_path)
    )

    for before, after in zip(first, second, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-4)


def test_the_parts_are_the_network(network: recipe.Network) -> None:
    """The frozen and the trained part, one after the other, give the answer of the network."""
    body = network.build(SIDE_PX)
    pixels = np.random.default_rng(0).normal(0, 1, (2, SIDE_PX, SIDE_PX, 3)).astype(np.float32)

    lower, upper = views.split(body, network.trained_from)
    joined = upper.predict_on_batch(lower.predict_on_batch(pixels))

    np.testing.assert_allclose(joined, body.predict_on_batch(pixels), atol=1e-5)


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
