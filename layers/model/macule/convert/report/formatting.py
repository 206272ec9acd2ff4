"""Formatting of figures and tables for HTML and Markdown."""

import math
from typing import Any, NamedTuple, TypeGuard

NO_VALUE = "–"  # not measured


class Cell(NamedTuple):
    """A table cell; `share` (0 to 1) is shown as a bar or tint, `tone` as a colour."""

    text: str
    share: float | None = None
    tone: str = ""


class Table(NamedTuple):
    """A table; the first cell of a row is its name. kind: "", "words", "bars" or "matrix"."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    kind: str = ""


def make_table(caption: str, head: list[str], rows: list[list[Any]], kind: str = "") -> Table:
    """Build a table from cells and plain values."""
    cells = [[v if isinstance(v, Cell) else Cell(str(v)) for v in row] for row in rows]
    return Table(caption, head, cells, kind)


def is_measured(value: Any) -> TypeGuard[float]:
    """Return whether a figure is neither None nor nan."""
    return value is not None and not math.isnan(value)


def percent(share: Any) -> str:
    return f"{share:.1%}".replace("%", " %") if is_measured(share) else NO_VALUE


def number(value: Any, digits: int = 3, sign: str = "") -> str:
    """Format a figure without a unit; with *sign* "+", positive figures have a sign."""
    if not is_measured(value):
        return NO_VALUE
    rounded = round(value, digits) or 0.0  # avoid -0
    return f"{rounded:{sign if rounded else ''}.{digits}f}".replace("-", "−")


def unit(value: Any, name: str) -> str:
    """Format *value* with three digits and its unit."""
    if not is_measured(value):
        return NO_VALUE
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
