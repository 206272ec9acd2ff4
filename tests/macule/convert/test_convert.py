"""`macule convert` from a Keras model to a folder that serves, with real models and images."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule import settings
from macule.cli.main import main
from macule.inference import pipeline, runtime
from macule.registry import model_card
from PIL import Image, ImageDraw

MACULE = [sys.executable, "-m", "macule.cli"]
LABELS = ["ring", "spot", "stripes"]
SIDE = 32


def draw(kind: str, rng: np.random.Generator, side: int = 64) -> Image.Image:
    """Draw one of three patterns on skin: colour and place vary, the pattern is the class."""
    base = rng.integers((190, 140, 120), (235, 185, 165))
    noise = rng.normal(0, 8, (side, side, 3))
    image = Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))
    pen, ink = (
        ImageDraw.Draw(image),
        tuple(int(c) for c in rng.integers((60, 30, 20), (120, 80, 70))),
    )
    x, y = rng.integers(side // 4, side // 2, 2)
    if kind == "spot":
        pen.ellipse((x, y, x + side // 3, y + side // 3), fill=ink)
    elif kind == "ring":
        pen.ellipse((x, y, x + side // 3, y + side // 3), outline=ink, width=3)
    else:
        for step in range(0, side, 8):
            pen.line((step, 0, step, side), fill=ink, width=2)
    return image


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder for each class with 40 drawn images."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for label in LABELS:
        (folder / label).mkdir()
        for number in range(40):
            draw(label, rng).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small network on pixels scaled to -1..1, so that its scaling can be detected."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(2)
    truth = np.arange(600) % 3
    pixels = np.stack(
        [np.asarray(draw(LABELS[index], rng).resize((SIDE, SIDE))) for index in truth]
    )
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(pixels / 127.5 - 1, truth, epochs=14, batch_size=32, verbose=0)
    path = tmp_path_factory.mktemp("model") / "patterns.keras"
    network.save(path)
    return path


def macule(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MACULE, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def converted(trained: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "patterns"
    done = macule("convert", trained, "--labels", ",".join(LABELS), "--eval", images, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    runtime.by_pid.clear()
    yield
    runtime.by_pid.clear()


def card(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return document


def test_the_folder_is_complete(converted: Path) -> None:
    """Model, card and both reports exist; the card is valid for serving."""
    assert {path.name for path in converted.iterdir()} == {
        "model.tflite", "model.json", "fitted_images.txt", "REPORT.md", "report.html",
    }  # fmt: skip
    assert model_card.read(str(converted)).labels == tuple(LABELS)


def test_the_scaling_is_detected_by_accuracy(converted: Path) -> None:
    """With labelled images the card has the -1..1 of the training."""
    assert card(converted)["scaling"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert card(converted)["metrics"]["accuracy"] > 0.9


@pytest.mark.slow
def test_a_wrapped_file_is_compared_by_its_answers(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    """A `.tflite` that ends in a softmax agrees with itself and has its answers' figures."""
    import keras
    import tensorflow as tf

    path = tmp_path / "patterns.tflite"
    path.write_bytes(
        tf.lite.TFLiteConverter.from_keras_model(keras.models.load_model(trained)).convert()
    )
    out = tmp_path / "out"

    done = macule("convert", path, "--labels", ",".join(LABELS), "--eval", images, "--out", out)

    assert done.returncode == 0, done.stderr
    wrapped = card(out)
    figures = wrapped["metrics"]
    assert (wrapped["output"], wrapped["scaling"]["mean"]) == ("probabilities", [127.5] * 3)
    assert figures["against_original"]["top1_agreement"] >= 0.98
    assert figures["against_original"]["max_change"] < 0.05
    assert figures["guarantee"]["accuracy_at_least"] <= figures["guarantee"]["accuracy"]


def test_the_card_promises_what_was_measured_out_of_fold(converted: Path) -> None:
    """The card has sets, a bound below its accuracy, and both reports say it in words."""
    figures, sets = card(converted)["metrics"], card(converted)["prediction_sets"]
    promised = figures["guarantee"]

    assert 0 < promised["accuracy_at_least"] <= promised["accuracy"] <= 1
    assert figures["prediction_sets"].keys() == sets.keys() != set()
    assert list(model_card.read(str(converted)).prediction_sets.values()) == list(sets.values())
    assert "Of what is answered, at least" in (converted / "REPORT.md").read_text()
    assert "Of what is answered, at least" in (converted / "report.html").read_text()


def test_evaluation_on_the_same_images_is_a_warning(
    converted: Path, images: Path, tmp_path: Path
) -> None:
    """Figures of images that fitted the model are marked, on the terminal and on the page."""
    words = ["evaluate", converted, "--data", images, "--resamples", "5", "--out", tmp_path]

    done = macule(*words)

    assert done.returncode == 0, done.stderr
    warned = "120 of 120 images were used to fit this model"
    assert done.stdout.startswith(f"warning: {warned}")
    assert warned in (tmp_path / "evaluation.html").read_text()
    assert json.loads((tmp_path / "evaluation.json").read_text())["fitted_images"] == 120


def test_it_answers_as_the_original(converted: Path, trained: Path, images: Path) -> None:
    """Served through the whole path, it predicts Keras's label nearly always."""
    import keras

    original = keras.saving.load_model(trained, compile=False)
    chosen = settings.read({"MODEL_DIR": str(converted)})
    agreed = []
    for path in sorted(images.rglob("*.png"))[::5]:
        answer = pipeline.predict(path.read_bytes(), chosen).answer
        pixels = np.asarray(
            Image.open(path).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32
        )
        expected = original.predict(pixels[None] / 127.5 - 1, verbose=0)[0].argmax()
        agreed.append(answer["predictions"][0]["label"] == LABELS[expected])

    assert np.mean(agreed) >= 0.95


def test_it_is_small_and_measured(converted: Path) -> None:
    """`auto` chooses a quantized file, and the card has the measured figures."""
    proof = card(converted)["metrics"]["against_original"]

    assert card(converted)["precision"] in ("int8", "dynamic")
    assert proof["n"] == 120
    assert proof["top1_agreement"] >= 0.98


def test_check_passes_and_detects_changes(converted: Path, images: Path, tmp_path: Path) -> None:
    """macule check passes for the folder, and fails for a changed file or other figures."""
    harmed, boasting = tmp_path / "harmed", tmp_path / "boasting"
    shutil.copytree(converted, harmed)
    shutil.copytree(converted, boasting)
    (harmed / "model.tflite").write_bytes((harmed / "model.tflite").read_bytes()[:-1])
    swapped = {**card(boasting), "labels": LABELS[::-1]}
    (boasting / "model.json").write_text(json.dumps(swapped))

    assert macule("check", converted, "--eval", images).returncode == 0
    assert macule("check", harmed).returncode == 1
    assert macule("check", boasting).returncode == 0
    assert macule("check", boasting, "--eval", images).returncode == 1


@pytest.mark.slow
def test_a_wrong_scaling_is_an_error_unless_forced(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    """A scaling that scores clearly worse is rejected with both figures."""
    words = ["convert", trained, "--labels", ",".join(LABELS), "--eval", images]
    words += ["--scaling", "none", "--precision", "fp32", "--out", tmp_path / "out"]
    refused = macule(*words)
    forced = macule(*words, "--force")

    assert refused.returncode == 1
    assert "This scaling would be wrong" in refused.stderr
    assert forced.returncode == 0
    assert "warning: Scaling none" in forced.stdout


@pytest.mark.slow
def test_without_images_nothing_is_claimed(trained: Path, tmp_path: Path) -> None:
    """Without images the scaling is assumed and int8 does not pass, both with a warning."""
    done = macule(
        "convert", trained, "--labels", ",".join(LABELS), "--out", tmp_path / "out", cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    assert card(tmp_path / "out")["precision"] in ("fp16", "fp32")
    assert "not sure" in done.stdout
    assert "prove nothing" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--labels", "a,b"], "2 labels"),
        (["--labels", "a,b,b"], "duplicate"),
        ([], "--labels"),
        (["--labels", "a,b,c", "--limit-mb", "20"], "The smallest service needs about"),
        (["--labels", "a,b,c", "--calibration", "/nowhere"], "not a folder"),
        (["--labels", "a,b,c", "--constant", "x=y"], "NAME=NUMBER"),
        (["--labels", "a,b,c", "--side", "7"], "supported: 8 to 640 px"),
        (["--labels", "a,b,c", "--side", "641"], "supported: 8 to 640 px"),
    ],
)
def test_wrong_input_is_rejected(
    words: list[str],
    expected: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each error is printed, exits with 1 and leaves no files."""
    monkeypatch.chdir(tmp_path)

    assert main(["convert", str(trained), *words, "--out", "out"]) == 1
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unrelated_folder_is_not_overwritten(trained: Path, tmp_path: Path) -> None:
    """--out with other content is rejected; one of macule's own is replaced."""
    (tmp_path / "thesis.txt").write_text("years of work")
    words = ["convert", str(trained), "--labels", "a,b,c", "--out", str(tmp_path)]

    assert main(words) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(trained: Path, images: Path, tmp_path: Path) -> None:
    """Ctrl-C exits with 130 and one line, and leaves no partial folder."""
    words = ["convert", trained, "--labels", ",".join(LABELS), "--eval", images, "--out", "out"]
    with subprocess.Popen(
        [*MACULE, *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("[5/7]"):
                break
        # Python drops an interrupt inside a library's callback: then it is sent again
        for _ in range(3):
            os.kill(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
                break
        rest = process.stderr.read()

    assert process.returncode == 130
    assert "interrupted" in rest
    assert list(tmp_path.iterdir()) == []
