"""Templates with one mistake in them, and what their check reports.

A mutant names no value of limits.toml: it is text in the templates' own language, which may use
every name of `generate.values`. `"MemorySize: <<predict.memory_mb>>"` becomes
`"MemorySize: <<predict.memory_mb + 1>>"`, for any table.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import checks, generate, limits

TABLE = limits.read()
PLAIN = tomllib.loads(Path(limits.FILE).read_text())


def changed(changes: Mapping[str, Any]) -> limits.Limits:
    """Return the table with other values: `changed({"predict.memory_mb": 256, "python": ...})`.

    Raises: ValueError if limits.py rejects it.
    """
    plain = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        *parents, key = path.split(".")
        place = plain
        for parent in parents:
            place = place[parent]
        place[key] = value
    return limits.parse(plain)


def fill(text: str, table: limits.Limits = TABLE) -> str:
    """Render a text of the templates' language with the table's values."""
    return generate.environment().from_string(text).render(generate.values(table))


def complaints(path: str, text: str, slip: str, table: limits.Limits = TABLE) -> list[str]:
    """Replace *text* in the template *path* by *slip*; return the findings of its check."""
    whole, there = generate.outputs(table)[path], fill(text, table)
    assert there in whole, f"{path} has no {there!r}"
    return list(checks.CHECKS[path](whole.replace(there, fill(slip, table), 1), table))
