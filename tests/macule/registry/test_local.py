"""Which model serves, and how that changes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from macule.errors import BadCard, BadRequest, ModelUnavailable
from macule.registry import local, model_card


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies go to a folder of the test's own."""
    monkeypatch.setattr(local, "MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


def named(folder: Path, name: str) -> str:
    """Make a model's folder that differs in its card's name."""
    shutil.copytree(local.DEFAULT_MODEL_DIR, folder)
    card = folder / model_card.FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), "name": name}))
    return str(folder)


def serving() -> str:
    return local.find(None).card.name


def test_what_ships_serves_at_first() -> None:
    """Without a choice the default model is in use, and there is none before it."""
    assert local.active_folder() == local.DEFAULT_MODEL_DIR
    with pytest.raises(BadRequest):
        local.roll_back()


def test_use_switches_and_back_restores(tmp_path: Path) -> None:
    """A copy is taken in; back returns to the one before, and back again to this one."""
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


def test_the_shipped_model_can_come_back(tmp_path: Path) -> None:
    """After the first use, the one before is what ships."""
    local.activate(named(tmp_path / "a", "first"))
    local.roll_back()

    assert local.active_folder() == local.DEFAULT_MODEL_DIR


def test_older_copies_go(tmp_path: Path, kept: Path) -> None:
    """Only the model in use and the one before take room."""
    for name in "abcd":
        local.activate(named(tmp_path / name, name))

    assert len([path for path in kept.iterdir() if path.is_dir()]) == 2


def test_a_damaged_model_is_not_taken_in(tmp_path: Path) -> None:
    """What could not serve does not replace what does."""
    folder = Path(named(tmp_path / "a", "first"))
    (folder / "model.tflite").write_bytes(b"x")
    with pytest.raises(ModelUnavailable):
        local.activate(str(folder))
    with pytest.raises(BadCard):
        local.activate(str(tmp_path / "nowhere"))

    assert local.active_folder() == local.DEFAULT_MODEL_DIR


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """While models are switched, every reader finds a whole one."""
    folders = [named(tmp_path / name, name) for name in "ab"]
    local.activate(folders[0])
    local.activate(folders[1])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(lambda: [serving() for _ in range(40)]) for _ in range(2)]
        for _ in range(40):
            local.roll_back()

    assert {name for reader in readers for name in reader.result()} <= {"a", "b"}
