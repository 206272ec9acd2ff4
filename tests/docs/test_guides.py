"""docs/from-tensorflow.md: its code is the application's, and both languages say the same."""

import csv
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from macule.registry import local
from support.service import ROOT
from support.translations import KEPT, kept

ENGLISH, VIETNAMESE = (
    (ROOT / f"docs/from-tensorflow{ending}.md").read_text().replace(".vi.md", ".md")
    for ending in ("", ".vi")  # each page links to the other
)
APP = ROOT / "examples/django_app"
BLOCKS = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", ENGLISH, re.MULTILINE | re.DOTALL)


def test_code_blocks_match_the_application() -> None:
    """Each block that names a file of the application is part of that file, letter by letter."""
    named = [(name, code) for name, code in BLOCKS if (APP / name).exists()]

    assert {name for name, _ in BLOCKS} - {name for name, _ in named} == {"before", "compare.py"}
    assert len(named) >= 5
    for name, code in named:
        assert code in (APP / name).read_text(), name


def test_the_comparison_runs(tmp_path: Path) -> None:
    """compare.py counts the labels that stayed the same and lists the photos that changed."""
    shutil.copytree(local.DEFAULT_MODEL_DIR, tmp_path / "mine")
    with (tmp_path / "old.csv").open("w", newline="") as file:
        spot = str(ROOT / "examples/spot.jpg")
        csv.writer(file).writerows([("path", "label"), (spot, "nevus"), (spot, "melanoma")])

    output = subprocess.check_output(
        [str(ROOT / ".venv/bin/python"), "-c", dict(BLOCKS)["compare.py"]],
        cwd=tmp_path,
        text=True,
        timeout=60,
    )

    assert output.splitlines() == [
        "1 of 2 have the label they had",
        f"{spot} melanoma -> nevus",
    ]


@pytest.mark.parametrize("kind", KEPT)
def test_both_languages_match(kind: str) -> None:
    """The Vietnamese page has the same headings, code, links and figures."""
    assert kept(VIETNAMESE, kind) == kept(ENGLISH, kind)
    assert kept(ENGLISH, kind)


def test_the_vietnamese_text_is_normalized() -> None:
    """The Vietnamese text has diacritics, in composed (NFC) letters."""
    assert unicodedata.is_normalized("NFC", VIETNAMESE)
    assert len(set(re.findall("[ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", VIETNAMESE))) > 30
