"""Figures as words and cells, the same in both reports."""

import math
from typing import Any, NamedTuple, TypeGuard

NO_VALUE = "–"  # nothing was measured


class Cell(NamedTuple):
    """One entry of a table; `share` (0 to 1) is drawn as a bar or tint, `tone` as a colour."""

    text: str
    share: float | None = None
    tone: str = ""


class Table(NamedTuple):
    """Rows under a head, each named by its first cell; kind: "", "words", "bars" or "matrix"."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    kind: str = ""


def make_table(caption: str, head: list[str], rows: list[list[Any]], kind: str = "") -> Table:
    """Make a table of cells and of plain values."""
    cells = [[v if isinstance(v, Cell) else Cell(str(v)) for v in row] for row in rows]
    return Table(caption, head, cells, kind)


def is_measured(value: Any) -> TypeGuard[float]:
    """Tell a measured figure from None and nan."""
    return value is not None and not math.isnan(value)


def percent(share: Any) -> str:
    """Write a share of 1 in percent."""
    return f"{share:.1%}".replace("%", " %") if is_measured(share) else NO_VALUE


def number(value: Any, digits: int = 3, sign: str = "") -> str:
    """Write a figure without a unit; *sign* "+" shows the sign of a gain too."""
    if not is_measured(value):
        return NO_VALUE
    rounded = round(value, digits) or 0.0  # no minus before a zero
    return f"{rounded:{sign if rounded else ''}.{digits}f}".replace("-", "−")


def unit(value: Any, name: str) -> str:
    """Write *value* to three digits and its unit."""
    if not is_measured(value):
        return NO_VALUE
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
