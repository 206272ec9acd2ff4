"""The loaded model, with the real runtime and the default weights."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from macule import settings
from macule.errors import BadCard, ModelUnavailable
from macule.inference import decoding, runtime
from macule.inference.runtime import loading, tensors
from macule.inference.runtime.loading import LoadedModel
from macule.registry import local, model_card
from support.images import photo


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    """Start each test with a cold process."""
    runtime.by_pid.clear()
    yield
    runtime.by_pid.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the default model, to be damaged."""
    copy = tmp_path / "weights"
    shutil.copytree(local.DEFAULT_MODEL_DIR, copy)
    return copy


def test_probabilities_are_a_distribution() -> None:
    """A photo gets one probability for each label, summing to 1, and one map for each label."""
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    scores = runtime.run(
        warm, decoding.decode(photo(), warm.card.side_px, warm.card.resize).picture
    )

    assert len(scores.probabilities) == len(warm.card.labels)
    assert sum(scores.probabilities) == pytest.approx(1, abs=1e-9)
    assert scores.maps is not None
    assert scores.maps.tensor.shape[-1] == len(warm.card.labels)


def test_maps_average_to_the_logits() -> None:
    """The probabilities follow from the maps' means."""
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    picture = decoding.decode(photo(), warm.card.side_px, warm.card.resize).picture
    other = decoding.decode(photo(300, 900), warm.card.side_px, warm.card.resize).picture
    one, two = runtime.run(warm, picture), runtime.run(warm, other)
    assert one.maps is not None
    assert two.maps is not None

    change = np.log(one.probabilities) - np.log(two.probabilities)
    first, second = (
        np.stack([maps.of(label).values for label in range(len(warm.card.labels))], axis=-1)
        for maps in (one.maps, two.maps)
    )
    evidence = (first.mean(0) - second.mean(0)) / warm.card.temperature

    np.testing.assert_allclose(change - change[0], evidence - evidence[0], atol=2e-3)


def test_channels_are_arranged_as_in_keras() -> None:
    """Gray uses Pillow's luma, bgr is reversed."""
    from support.images import skin

    picture = skin(60, 50)

    gray, reversed_order = (np.asarray(tensors.arrange(picture, name)) for name in ("gray", "bgr"))
    np.testing.assert_array_equal(gray, np.asarray(picture.convert("L")))
    np.testing.assert_array_equal(reversed_order, np.asarray(picture)[..., ::-1])


@pytest.mark.parametrize(
    ("output", "scores", "expected"),
    [
        ("logits", [0.0, np.log(3.0)], [0.25, 0.75]),
        ("probabilities", [0.25, 0.75], [0.25, 0.75]),
        ("sigmoid", [0.75], [0.25, 0.75]),
        ("probabilities", [0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_scores_of_every_kind_become_probabilities(
    output: str, scores: list[float], expected: list[float]
) -> None:
    """Logits, probabilities and one sigmoid give the same distribution."""
    probabilities = tensors.softmax(tensors.as_logits(scores, output), 1.0)

    assert probabilities == pytest.approx(expected, abs=1e-6)


def test_concurrent_first_requests_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent first requests load the model once and share it."""
    loads = []
    load = loading.load

    def counted(where: settings.ModelLocation, on_trial: bool) -> LoadedModel:
        loads.append(where)
        return load(where, on_trial)

    monkeypatch.setattr(loading, "load", counted)

    with ThreadPoolExecutor(8) as pool:
        warm = set(map(id, pool.map(runtime.get_or_load, [local.DEFAULT_MODEL_DIR] * 8)))

    assert (len(loads), len(warm)) == (1, 1)


def test_threads_get_their_own_results() -> None:
    """Images run at once do not mix their results."""
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    inputs = [
        decoding.decode(photo(200 + 50 * n, 300), warm.card.side_px, "squash").picture
        for n in range(6)
    ]
    alone = [runtime.run(warm, picture).probabilities for picture in inputs]

    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda picture: runtime.run(warm, picture).probabilities, inputs * 5)
        )

    for index, probabilities in enumerate(together):
        assert probabilities == alone[index % 6]


def remove_file(file: Path) -> None:
    file.unlink()


def truncate_file(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def corrupt_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def change_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [remove_file, truncate_file, corrupt_pointer, change_byte])
def test_a_damaged_file_is_rejected_until_it_is_repaired(harm, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """A file that does not match its card has a reason; once repaired, the next call loads it."""
    harm(folder / "model.tflite")

    with pytest.raises(ModelUnavailable):
        runtime.get_or_load(str(folder))
    failed = runtime.state()
    shutil.copy(Path(local.DEFAULT_MODEL_DIR) / "model.tflite", folder)
    runtime.get_or_load(str(folder))

    assert failed[0] == "failed"
    assert failed[1]
    assert runtime.state() == ("ready", "")


def rewrite(folder: Path, **changes: object) -> None:
    import json

    path = folder / model_card.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_invalid_model_is_rejected_despite_its_digest(folder: Path) -> None:
    """A card may have the digest of an invalid file; the runtime's error is reported."""
    from hashlib import sha256

    (folder / "model.tflite").write_bytes(b"garbage" * 1000)
    rewrite(folder, sha256=sha256(b"garbage" * 1000).hexdigest())

    with pytest.raises(ModelUnavailable, match="LiteRT"):
        runtime.get_or_load(str(folder))


def test_a_card_of_another_shape_is_rejected(folder: Path) -> None:
    """Side and number of labels must match the file."""
    rewrite(folder, side_px=300)
    with pytest.raises(ModelUnavailable, match="its card says"):
        runtime.get_or_load(str(folder))
    rewrite(
        folder, side_px=256, labels=["a", "b"], names={"en": ["A", "B"]}, descriptions={}, urgent=[]
    )
    with pytest.raises(ModelUnavailable, match="2 labels"):
        runtime.get_or_load(str(folder))


def test_a_missing_folder_is_a_bad_card(tmp_path: Path) -> None:
    """A missing folder is reported as a missing card."""
    with pytest.raises(BadCard):
        runtime.get_or_load(str(tmp_path / "nowhere"))


def test_a_model_loaded_before_a_fork_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that inherits a model is cold and loads its own."""
    parent = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    monkeypatch.setattr(os, "getpid", lambda: 999_999_999)

    state = runtime.state()
    child = runtime.get_or_load(local.DEFAULT_MODEL_DIR)

    assert state == ("cold", "")
    assert child is not parent
    assert "before the fork" in caplog.text
