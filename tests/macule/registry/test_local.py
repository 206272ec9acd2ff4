"""The active model, and how it changes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from macule.errors import BadCard, BadRequest, ModelUnavailable
from macule.registry import local, model_card


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a folder of the test for copies."""
    monkeypatch.setattr(local, "MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def named(folder: Path, name: str) -> str:
    """Create a model folder with another name in its card."""
    shutil.copytree(local.DEFAULT_MODEL_DIR, folder)
    card = folder / model_card.FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), "name": name}))
    return str(folder)


def serving() -> str:
    return local.find(None).card.name


def test_the_default_model_is_active_at_first() -> None:
    """Without a choice the default model is active, and there is no previous one."""
    assert local.active_folder() == local.DEFAULT_MODEL_DIR
    with pytest.raises(BadRequest):
        local.roll_back()


def test_use_switches_and_back_restores(tmp_path: Path) -> None:
    """A copy is stored; back returns to the previous model, and back again to this one."""
    shipped = serving()
    local.activate(named(tmp_path / "a", "first"))
    local.activate(named(tmp_path / "b", "second"))
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")

    assert serving() == "second"
    local.roll_back()
    assert serving() == "first"
    local.roll_back()
    assert serving() == "second"
    assert shipped not in ("first", "second")


def test_the_default_model_can_return(tmp_path: Path) -> None:
    """After the first use, the previous model is the default one."""
    local.activate(named(tmp_path / "a", "first"))
    local.roll_back()

    assert local.active_folder() == local.DEFAULT_MODEL_DIR


def test_older_copies_are_removed(tmp_path: Path, kept: Path) -> None:
    """Only the active model and the previous one are stored."""
    for name in "abcd":
        local.activate(named(tmp_path / name, name))

    assert len([path for path in kept.iterdir() if path.is_dir()]) == 2


def test_a_damaged_model_is_rejected(tmp_path: Path) -> None:
    """An invalid model does not replace the active one."""
    folder = Path(named(tmp_path / "a", "first"))
    (folder / "model.tflite").write_bytes(b"x")
    with pytest.raises(ModelUnavailable):
        local.activate(str(folder))
    with pytest.raises(BadCard):
        local.activate(str(tmp_path / "nowhere"))

    assert local.active_folder() == local.DEFAULT_MODEL_DIR


def test_a_reader_never_sees_a_partial_model(tmp_path: Path) -> None:
    """While models are switched, every reader finds a complete one."""
    folders = [named(tmp_path / name, name) for name in "ab"]
    local.activate(folders[0])
    local.activate(folders[1])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(lambda: [serving() for _ in range(40)]) for _ in range(2)]
        for _ in range(40):
            local.roll_back()

    assert {name for reader in readers for name in reader.result()} <= {"a", "b"}
