"""The commands in the documentation."""

from __future__ import annotations

import re
from typing import NamedTuple

from support.service import ROOT

PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("README*.md", "examples/*.md", "docs/*.md")
    for page in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """Commands; `section` contains them, `label` is the bold text right before them."""

    page: str
    section: str
    label: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of commands of a page, by its path from the root."""
    found, section, label, end = [], "", "", 0
    text = (ROOT / page).read_text()
    for match in BLOCK.finditer(text):
        between, end = text[end : match.start()], match.end()
        for heading, bold in re.findall(r"^(?:## (.*)|\*\*([^*]+?):?\*\*)", between, re.MULTILINE):
            section, label = (heading, "") if heading else (section, bold)
        typed = [line for line in match[2].splitlines() if line.startswith("$ ")]
        if match[1] == "sh" or typed:
            lines = "\n".join(line[2:] for line in typed) if match[1] != "sh" else match[2]
            found.append(Block(page, section, label, lines))
            label = ""
    return found


def commands(page: str, section: str, label: str) -> str:
    """Return the one block of docs/*page* in *section* after **label**."""
    (found,) = [
        block.text
        for block in blocks(f"docs/{page}")
        if (block.section, block.label) == (section, label)
    ]
    return found
