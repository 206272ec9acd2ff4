"""Results of the recipe as files; an interrupted write leaves no file of the wanted name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

Arrays = TypeVar("Arrays", bound=tuple[Any, ...])


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it gets its name *path* when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        yield file
    os.replace(unfinished, path)


def write(path: Path, arrays: Any) -> None:
    """Write a NamedTuple of arrays."""
    with replacing(path) as file:
        np.savez(file, **arrays._asdict())


def read(path: Path, kind: type[Arrays]) -> Arrays:
    """Read a NamedTuple of arrays of the type *kind*."""
    with np.load(path) as found:
        return kind(*(found[name] for name in kind._fields))  # type: ignore[attr-defined]
