"""The conversion report as Markdown, readable in a terminal and on GitHub."""

import re
from collections.abc import Iterator

from macule.convert.report import facts, sections
from macule.convert.report.facts import Evidence
from macule.convert.report.formatting import Table

MAX_COLUMNS = 13  # a wider table wraps in a terminal
INTRODUCTION = (
    "macule convert, {}: what changed between the original and the converted model.\n"
    "Plots and activation maps are in `report.html`, in the same folder."
)
# Markup of CommonMark and GitHub: emphasis, tags, links, cells, formulas, entities, mentions and
# URLs. A _ within a word is not markup, and is not escaped.
MARKUP = re.compile(
    r"[\\`*|<>\[\]$~]|&(?=[#\w])|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=\bwww)\.|(?<!\w)@", re.IGNORECASE
)


def text(evidence: Evidence) -> str:
    return "\n".join(lines(evidence)) + "\n"


def lines(evidence: Evidence) -> Iterator[str]:
    """Yield the lines of the report, in the order of the page."""
    summary = facts.summarise(evidence)
    yield from (f"# {escape(evidence['title'])}", "")
    yield from (INTRODUCTION.format(escape(evidence["date"])), "", facts.DISCLAIMER, "")
    yield from (f"**{escape(summary.verdict)}**", "")
    yield from bullets(summary.reasons)
    yield from table_lines(summary.figures)
    yield from (f"## {summary.checks.caption}", "")
    yield from table_lines(summary.checks)
    yield from ("## Findings and assumptions", "")
    for level, words in summary.findings:
        yield f"- {'' if level == 'info' else f'**{level.upper()}:** '}{escape(words)}"
    yield ""
    for part in (summary.source, summary.card):
        yield from (f"## {part.caption}", "")
        yield from table_lines(part)
    for section in sections.build_sections(evidence):
        yield from (f"## {section.title}", "")
        for words in section.texts:
            yield from (escape(words), "")
        yield from bullets(section.points)
        for found in section.tables:
            yield from table_lines(found)
    yield from ("## Command", "", *fence_command(evidence["command"]), "")
    yield from table_lines(summary.versions)


def bullets(sentences: list[str]) -> Iterator[str]:
    yield from (f"- {escape(sentence)}" for sentence in sentences)
    if sentences:
        yield ""


def table_lines(found: Table) -> Iterator[str]:
    """Yield a table with aligned columns; a table that is too wide is left out."""
    if found.kind != "words":  # they have their own heading
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
    """Escape Markdown in *words*, and join them to one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(words.split()))


def fence_command(command: str) -> list[str]:
    """Return *command* in a code block, with a fence that it does not contain."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", command, fence]
