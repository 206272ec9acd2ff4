"""Writers of the result table: Parquet, CSV, JSON lines."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice

from macule import extras
from macule.errors import BadRequest

ROW_GROUP_ROWS = 10_000  # of a Parquet file, in memory at once: about 10 MB
Write = Callable[[str, Iterator[bytes], list[str]], None]


def writer(out: str) -> Write:
    """Return the writer for the file name extension of *out*.

    Raises: BadRequest, before any image is scored.
    """
    ending = os.path.splitext(out)[1].lower()
    if ending not in WRITERS:
        raise BadRequest(f"{out} does not end with {', '.join(WRITERS)}.")
    if ending == ".parquet" and (fault := extras.missing_message(".parquet", "pyarrow")):
        raise BadRequest(f"{fault}; or use a .csv file.")
    return WRITERS[ending]


def _jsonl(path: str, lines: Iterator[bytes], columns: list[str]) -> None:
    with open(path, "wb") as file:
        file.writelines(lines)


def _csv(path: str, lines: Iterator[bytes], columns: list[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(map(json.loads, lines))


def _parquet(path: str, lines: Iterator[bytes], columns: list[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    numbers = {"probability", *(name for name in columns if name.startswith("p_"))}
    kinds = [(name, pa.float64() if name in numbers else pa.string()) for name in columns]
    schema = pa.schema(kinds)
    with parquet.ParquetWriter(path, schema) as file:
        while rows := list(map(json.loads, islice(lines, ROW_GROUP_ROWS))):
            file.write_table(pa.Table.from_pylist(rows, schema))


WRITERS: dict[str, Write] = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
