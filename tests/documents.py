"""The commands that the documentation prints, as they are printed."""

from __future__ import annotations

import re
from typing import NamedTuple

from service import ROOT

PAGES = [*ROOT.glob("README*.md"), *(ROOT / "examples").glob("*.md"), *(ROOT / "docs").glob("*.md")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "text")  # the others hold what is no command


class Block(NamedTuple):
    """A block of code; `label` is the bold word that stands before it."""

    page: str
    language: str
    label: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, by its path from the root."""
    text, found, end = (ROOT / page).read_text(), [], 0
    for match in BLOCK.finditer(text):
        labels = re.findall(r"^\*\*([^*]+?):?\*\*", text[end : match.start()], re.MULTILINE)
        found.append(Block(page, match[1], labels[-1] if labels else "", match[2]))
        end = match.end()
    return found


def commands(page: str, label: str) -> str:
    """Return the one block of docs/*page* that stands behind **label**."""
    (found,) = [block.text for block in blocks(f"docs/{page}") if block.label == label]
    return found
