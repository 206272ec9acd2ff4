"""Templates with one slip in them, and what their check says of that.

A mutant names no value of limits.toml: it is text in the templates' own language, in which every
name of `generate.values` may stand. `"MemorySize: <<predict.memory_mb>>"` becomes
`"MemorySize: <<predict.memory_mb + 1>>"`, whatever the table says today.
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

    Raises: ValueError where limits.py refuses it.
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
    """Write a text of the templates' language with the table's values."""
    return generate.environment().from_string(text).render(generate.values(table))


def complaints(path: str, text: str, slip: str, table: limits.Limits = TABLE) -> list[str]:
    """Replace *text* in the template *path* by *slip*; return what its check finds."""
    whole, there = generate.outputs(table)[path], fill(text, table)
    assert there in whole, f"{path} has no {there!r}"
    return list(checks.CHECKS[path](whole.replace(there, fill(slip, table), 1), table))
