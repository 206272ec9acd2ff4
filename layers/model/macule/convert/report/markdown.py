"""The report as text that reads in a terminal and on GitHub."""

import re
from collections.abc import Iterator

from macule.convert.report import facts, sections
from macule.convert.report.facts import Evidence
from macule.convert.report.formatting import Table

MAX_COLUMNS = 13  # columns; a wider table wraps in every terminal
INTRODUCTION = (
    "macule convert, {}: what changed between the original and the converted model.\n"
    "Plots and activation maps are in `report.html`, beside this file."
)
# What CommonMark or GitHub takes for markup: emphasis, tags, links, cells, formulas, entities,
# mentions, and bare addresses. A _ within a word is none, and stays readable.
MARKUP = re.compile(
    r"[\\`*|<>\[\]$~]|&(?=[#\w])|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=\bwww)\.|(?<!\w)@", re.IGNORECASE
)


def text(evidence: Evidence) -> str:
    """Write the whole report."""
    return "\n".join(lines(evidence)) + "\n"


def lines(evidence: Evidence) -> Iterator[str]:
    """Give the report line by line, in the order of the page."""
    screen = facts.summarise(evidence)
    yield from (
        f"# {escape(screen.title)}",
        "",
        INTRODUCTION.format(escape(screen.date)),
        "",
        screen.disclaimer,
        "",
    )
    yield from (f"**{escape(screen.verdict)}**", "")
    yield from bullets(screen.reasons)
    yield from table_lines(screen.figures)
    yield from (f"## {screen.checks.caption}", "")
    yield from table_lines(screen.checks)
    yield from ("## What was assumed, and how sure", "")
    yield from (f"- {level_prefix(level)}{escape(words)}" for level, words in screen.findings)
    yield from ([] if screen.findings else ["No findings were given."])
    yield ""
    for part in (screen.source, screen.card):
        yield from (f"## {part.caption}", "")
        yield from table_lines(part)
    for section in sections.build_sections(evidence):
        yield from (f"## {section.title}", "")
        for words in section.texts:
            yield from (escape(words), "")
        yield from bullets(section.points)
        for found in section.tables:
            yield from table_lines(found)
    yield from ("## How to repeat it", "", *fence_command(screen.command), "")
    yield from table_lines(screen.versions)


def level_prefix(level: str) -> str:
    """Make a warning or an error stand out from what is only said."""
    return "" if level == "info" else f"**{level.upper()}:** "


def bullets(sentences: list[str]) -> Iterator[str]:
    yield from (f"- {escape(sentence)}" for sentence in sentences)
    if sentences:
        yield ""


def table_lines(found: Table) -> Iterator[str]:
    """Set a table in columns of even width, its caption above; a matrix too wide is named only."""
    if found.kind != "words":  # those stand under a heading of their own
        yield from (f"**{escape(found.caption)}**", "")
    if len(found.head) > MAX_COLUMNS:
        yield from ("Too wide for text: see `report.html`.", "")
        return
    rows = [[escape(cell.text) for cell in row] for row in found.rows]
    rows.insert(0, [escape(name) for name in found.head])
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * max(width, 3) for width in widths])
    for row in rows:
        cells = (cell.ljust(max(width, 3)) for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(cells)} |"
    yield ""


def escape(words: str) -> str:
    """Escape *words* so that they read as they are, on one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(str(words).split()))


def fence_command(command: str) -> list[str]:
    """Fence a command with more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", command, fence]
