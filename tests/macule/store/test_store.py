"""Which model serves, and how that changes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from macule import manifest, store
from macule.errors import BadCard, BadRequest, ModelUnavailable


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies go to a folder of the test's own."""
    monkeypatch.setattr(store, "KEPT", str(tmp_path / "models"))
    return tmp_path / "models"


def named(folder: Path, name: str) -> str:
    """Make a model's folder that differs in its card's name."""
    shutil.copytree(store.SHIPPED, folder)
    card = folder / manifest.FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), "name": name}))
    return str(folder)


def serving() -> str:
    return store.fetch(None).card.name


def test_what_ships_serves_at_first() -> None:
    """Without a choice the default model is in use, and there is none before it."""
    assert store.in_use() == store.SHIPPED
    with pytest.raises(BadRequest):
        store.back()


def test_use_switches_and_back_restores(tmp_path: Path) -> None:
    """A copy is taken in; back returns to the one before, and back again to this one."""
    shipped = serving()
    store.use(named(tmp_path / "a", "first"))
    store.use(named(tmp_path / "b", "second"))
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")

    assert serving() == "second"
    store.back()
    assert serving() == "first"
    store.back()
    assert serving() == "second"
    assert shipped not in ("first", "second")


def test_the_shipped_model_can_come_back(tmp_path: Path) -> None:
    """After the first use, the one before is what ships."""
    store.use(named(tmp_path / "a", "first"))
    store.back()

    assert store.in_use() == store.SHIPPED


def test_older_copies_go(tmp_path: Path, kept: Path) -> None:
    """Only the model in use and the one before take room."""
    for name in "abcd":
        store.use(named(tmp_path / name, name))

    assert len([path for path in kept.iterdir() if path.is_dir()]) == 2


def test_a_damaged_model_is_not_taken_in(tmp_path: Path) -> None:
    """What could not serve does not replace what does."""
    folder = Path(named(tmp_path / "a", "first"))
    (folder / "model.tflite").write_bytes(b"x")
    with pytest.raises(ModelUnavailable):
        store.use(str(folder))
    with pytest.raises(BadCard):
        store.use(str(tmp_path / "nowhere"))

    assert store.in_use() == store.SHIPPED


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """While models are switched, every reader finds a whole one."""
    folders = [named(tmp_path / name, name) for name in "ab"]
    store.use(folders[0])
    store.use(folders[1])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(lambda: [serving() for _ in range(40)]) for _ in range(2)]
        for _ in range(40):
            store.back()

    assert {name for reader in readers for name in reader.result()} <= {"a", "b"}
