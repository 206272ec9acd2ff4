"""docs/python.md and examples/notebook.py: each snippet runs and prints what the page shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import macule
import pytest
from macule.registry import local
from support.service import ROOT

PAGE = (ROOT / "docs/python.md").read_text()
PYTHON = str(ROOT / ".venv/bin/python")  # the serving environment: neither TensorFlow nor tools
RUN = """
import contextlib, io, json, sys
told, names = [], {}
for block in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, "docs/python.md", "exec"), names)
    told.append(out.getvalue())
json.dump(told, sys.stdout)
"""
FIGURE = r"\d+\.\d+"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder with the files that the page's snippets read."""
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        shutil.copy(ROOT / "examples/spot.jpg", tmp_path / name)
    (tmp_path / "photos/broken.jpg").write_bytes(b"hello")
    shutil.copytree(local.DEFAULT_MODEL_DIR, tmp_path / "mine")
    return tmp_path


def test_every_snippet_prints_what_the_page_shows(folder: Path) -> None:
    """The page's Python runs in order and prints the texts below it."""
    parts = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    code = [text for kind, text in parts if kind == "python"]
    printed = [
        (sum(kind == "python" for kind, _ in parts[:place]) - 1, text)
        for place, (kind, text) in enumerate(parts)
        if kind == "text"
    ]

    done = subprocess.run(
        [PYTHON, "-c", RUN],
        input=json.dumps(code),
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)

    assert len(code) >= 6
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
    for place, text in printed:
        assert re.sub(FIGURE, "#", told[place]) == re.sub(FIGURE, "#", text)
        figures = [list(map(float, re.findall(FIGURE, each))) for each in (told[place], text)]
        assert figures[0] == pytest.approx(figures[1], abs=0.02)


def test_every_name_is_on_the_page() -> None:
    """The page describes every exported name and every argument of `load`."""
    arguments = set(macule.load.__annotations__) - {"model", "return"}
    names = {*macule.__all__, *arguments} - {"__version__", "errors"}

    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", PAGE)] == []
    exceptions = {name for name in names if isinstance(getattr(macule, name, 0), type)}
    table = PAGE.partition("## Errors")[2].partition("## ")[0]
    shown = {name for name in exceptions if issubclass(getattr(macule, name), macule.Macule)}
    assert [name for name in sorted(shown) if f"{name}`" not in table] == []


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell of the example runs from any folder and prints its result."""
    done = subprocess.run(
        [PYTHON, str(ROOT / "examples/notebook.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert "inconclusive" in done.stdout
    assert "BadImage" in done.stdout
    assert "BadRequest The photo has 0 bytes" in done.stdout
    assert len(re.findall(r"\d+ px  ", done.stdout)) == 5
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
