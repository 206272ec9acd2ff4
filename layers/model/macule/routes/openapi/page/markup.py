"""HTML of texts, names, types and tables; all text of the document is escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

MAX_CHARS = 90  # of a string in an example
MAX_OPEN_LINES = 14  # of an example shown open
SETTING = re.compile(r"[A-Z]+(_[A-Z]+)*")

Node = Mapping[str, Any]


class Row(NamedTuple):
    """A table row; `id`: the anchor for links and search, "" for none."""

    cells: Sequence[str]
    id: str = ""


def prose(text: str) -> str:
    """Return a text as HTML; supports `code` and **strong**."""
    escaped = escape(text, quote=False)
    marked = re.sub(r"`([^`]+)`", lambda found: code(found[1]), escaped)
    return re.sub(r"\*\*([^ *][^*]*)\*\*", r"<strong>\1</strong>", marked)


def code(text: str) -> str:
    """Return an escaped text as breakable code; settings get a class."""
    kind = ' class="setting"' if len(text) > 4 and SETTING.fullmatch(text) else ""
    return f"<code{kind}>{breakable(text)}</code>"


def breakable(text: str) -> str:
    """Allow line breaks between the parts of a name."""
    return re.sub("([/_.:])", r"\1<wbr>", text)


def lines(parts: Iterable[str]) -> str:
    """Join the non-empty *parts* with newlines."""
    return "\n".join(part for part in parts if part)


def table(caption: str, kind: str, heads: Iterable[str], rows: Sequence[Row]) -> str:
    """Return a table, "" without rows; *kind*: the type of its rows in the search."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<table data-kind="{kind}">\n<caption>{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines(map(_row, rows))}\n</tbody>\n</table>"
    )


def _row(row: Row) -> str:
    first, *cells = row.cells
    name = f' id="{row.id}"' if row.id else ""
    return f'<tr{name}><th scope="row">{first}</th>{"".join(f"<td>{it}</td>" for it in cells)}</tr>'


def details(summary: str, content: str, is_open: bool = False) -> str:
    """Return a details element, "" without content."""
    if not content:
        return ""
    return f"<details{' open' * is_open}><summary>{summary}</summary>\n{content}\n</details>"


def example(summary: str, value: Any, is_open: bool = False) -> str:
    """Return a recorded answer, open if *is_open* and short."""
    text = _json(value)
    shown = f'<div class="code"><pre tabindex="0">{escape(text)}</pre></div>'
    return details(summary, shown, is_open=is_open and text.count("\n") < MAX_OPEN_LINES)


def type_name(schema: Node) -> str:
    """Return a short description of a schema's type."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    if "const" in schema:
        return code(escape(json.dumps(schema["const"])))
    if "enum" in schema:
        return ", ".join(code(escape(str(value))) for value in schema["enum"] if value)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(map(type_name, schema[key]))
    if "allOf" in schema:
        return type_name(schema["allOf"][0])
    kind = schema.get("type", "bytes")
    if kind == "array":
        return f"list of {type_name(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_name(schema['additionalProperties'])}"
    text = " or ".join([kind] if isinstance(kind, str) else kind)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        text += f", {low} to {high}" if high is not None else f", at least {low}"
    return escape(text)


def _json(value: Any) -> str:
    """Return indented JSON with long strings truncated and short lists on one line."""

    def cut(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: cut(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [cut(inner) for inner in part]
        long = isinstance(part, str) and len(part) > MAX_CHARS
        return f"{part[:MAX_CHARS]}…" if long else part

    text = json.dumps(cut(value), indent=2, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)
