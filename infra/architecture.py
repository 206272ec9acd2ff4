"""Draws the rooms of `macule` and the imports between them, for docs/architecture.md."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- generated: make architecture -->\n", "<!-- end -->\n"
BASE = ("settings", "extras", "errors")  # imported nearly everywhere: their arrows say nothing


def rooms() -> list[list[str]]:
    """Return the rooms, highest layer first, in the order of the contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def arrows() -> set[tuple[str, str]]:
    """Return the imports between rooms; imports for types alone do not count."""
    import grimp

    graph = grimp.build_graph("macule", exclude_type_checking_imports=True)
    names = {room for layer in rooms() for room in layer}
    found = set()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            pair = module.split(".")[1:2], target.split(".")[1:2]
            if pair[0] and pair[1] and pair[0] != pair[1]:
                found.add((pair[0][0], pair[1][0]))
    return {(a, b) for a, b in found if a in names and b in names and b not in BASE}


def reduced(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Remove each arrow that a longer path implies: a transitive reduction."""

    def reaches(start: str, end: str, without: tuple[str, str]) -> bool:
        ahead = [b for a, b in pairs if a == start and (a, b) != without]
        return end in ahead or any(reaches(each, end, without) for each in ahead)

    return sorted(pair for pair in pairs if not reaches(*pair, without=pair))


def diagram() -> str:
    """Return the diagram as a Mermaid flowchart."""
    lines = ["```mermaid", "flowchart TD"]
    for layer in rooms():
        lines += [f"  {room}" for room in layer if room not in BASE]
    lines += [f"  {a} --> {b}" for a, b in reduced(arrows())]
    return "\n".join([*lines, "```", ""])


def page() -> str:
    """Return docs/architecture.md with the present diagram."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + diagram() + END + rest.split(END)[1]


def main() -> None:
    """Write the page; with --check, exit with 1 if it differs from the code."""
    if "--check" in sys.argv:
        sys.exit(page() != PAGE.read_text() and "docs/architecture.md: run `make architecture`")
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
