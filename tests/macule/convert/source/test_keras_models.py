"""Every kind of Keras model: its LiteRT file gives the model's own answers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from macule.convert import export
from macule.convert.source import load, output_check, tflite
from numpy.typing import NDArray
from support import keras_models
from support.service import needs_tensorflow

pytestmark = [
    needs_tensorflow,
    # Keras's variables support NumPy 1 only, which shows while these models are written
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
# One of each file format and of each generation of Keras; the others are combinations, other heads,
# and networks of full depth.
FAST = {"deep", "logits", "exported", "old nested", "lite int8"}
KINDS = [
    pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in keras_models.ZOO
]


class Case(NamedTuple):
    """A model of the collection, loaded and exported."""

    kind: keras_models.Kind
    folder: Path
    source: load.Source
    exported: export.Exported


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Write, load and export a model at its own size, or at 64 px if its size is free."""
    kind = keras_models.ZOO[request.param]
    folder = tmp_path_factory.mktemp("zoo")
    source = load.load(kind.write(folder))
    return Case(kind, folder, source, export.export(source, *(s or 64 for s in kind.size)))


def reference(case: Case) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return images and the probabilities of the model before it was saved."""
    with np.load(case.folder / "reference.npz") as stored:
        images, answer = stored["images"], stored["answer"].astype(np.float32)
    kind = "linear" if case.kind.output == "logits" else case.kind.output
    return images, output_check.to_probabilities(answer, kind)


def test_facts_match_the_model(case: Case) -> None:
    """Kind, output, labels, size, inner scaling and architecture match the built model."""
    source, kind = case.source, case.kind

    found = (source.kind, source.output, source.classes, source.channels)

    assert found == (kind.kind, kind.output, kind.classes, kind.channels)
    assert (source.height, source.width) == kind.size
    assert (source.scaling_layers, source.takes_raw_pixels, source.backbone) == (
        kind.inside,
        kind.scales,
        kind.backbone,
    )


def test_the_file_answers_as_the_model(case: Case) -> None:
    """The loaded model and the LiteRT file give the same probabilities, within 1e-3."""
    if case.kind.kind == "tflite":
        pytest.skip("a .tflite is its own reference")
    images, expected = reference(case)

    rows = tflite.run_outputs(case.exported.content, images)

    assert case.exported.output == "logits"
    assert case.exported.precision == "fp32"
    assert load.predict(case.source, images) == pytest.approx(expected, abs=1e-3)
    assert output_check.to_probabilities(rows[0], "logits") == pytest.approx(expected, abs=1e-3)


def test_answers_differ_between_images(case: Case) -> None:
    """The images get different answers, so that agreement on them is meaningful."""
    images = load.sample_images(case.source, 6, *(size or 64 for size in case.kind.size))

    assert np.ptp(load.predict(case.source, images), axis=0).max() > 0.01


def test_maps_are_grad_cam(case: Case) -> None:
    """Maps equal a GradientTape's Grad-CAM, or the card says why there are none."""
    cam, kind = case.exported.cam, case.kind

    assert cam.get("head") == kind.head
    if kind.head is None:
        assert cam["faithful"] is False
        assert len(cam["why"].split()) > 5
        return
    assert cam["faithful"]
    assert cam["correlation"] > 0.9999
    assert cam["max_error"] < 2e-3


def test_maps_are_outputs_of_the_file(case: Case) -> None:
    """One signature has logits (1, classes) and, with a head, maps (1, h, w, classes)."""
    images = load.sample_images(case.source, 2, *(size or 64 for size in case.kind.size))
    rows = tflite.run_outputs(case.exported.content, images)

    units = 1 if case.exported.output == "sigmoid" else case.kind.classes
    assert rows[0].shape == (2, units)
    assert len(rows) == (1 if case.kind.head is None else 2)
    if len(rows) == 2:
        assert rows[1].shape[3] == case.kind.classes
        best = rows[0].argmax(axis=1)
        tape = load.gradient_maps(case.source, images, best)
        assert tape is not None
        for place, label in enumerate(best):
            assert rows[1][place][..., label] == pytest.approx(tape[place], abs=2e-3)
