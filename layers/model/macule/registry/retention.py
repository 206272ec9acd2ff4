"""Retention of installed models: the active and the previous one are kept in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from macule.errors import BadRequest, ModelUnavailable

POINTER = "use.json"  # the active and the previous model; "" stands for the default


def active(root: str) -> str | None:
    """Return the folder of the active model; None if none is installed."""
    name = _read_pointer(root).get("now")
    return os.path.join(root, name) if name else None


def folders(root: str) -> list[str]:
    names = os.listdir(root) if os.path.isdir(root) else []
    return [os.path.join(root, name) for name in names if name != POINTER and name[0] != "."]


@contextmanager
def install(root: str, name: str) -> Iterator[str]:
    """Yield an empty folder to fill; without an error it becomes the active model *name*.

    The update is atomic for readers: the folder is renamed, then the pointer is replaced.
    """
    import shutil

    os.makedirs(root, exist_ok=True)
    folder = os.path.join(root, f".{name}")
    os.mkdir(folder)
    try:
        yield folder
        os.rename(folder, os.path.join(root, name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    activate(root, name)


def activate(root: str, name: str) -> None:
    """Make *name* the active model; keep the previous one and remove older ones."""
    import shutil

    before = _read_pointer(root).get("now", "")
    if before == name:
        return
    _write_pointer(root, {"now": name, "before": before})
    for other in os.listdir(root):
        if other not in (name, before, POINTER):
            shutil.rmtree(os.path.join(root, other), ignore_errors=True)


def roll_back(root: str) -> None:
    """Swap the active model and the previous one.

    Raises: BadRequest if there is no previous model.
    """
    pointer = _read_pointer(root)
    if "before" not in pointer:
        raise BadRequest("There is no previous model.")
    _write_pointer(root, {"now": pointer["before"], "before": pointer["now"]})


def _read_pointer(root: str) -> dict[str, str]:
    try:
        with open(os.path.join(root, POINTER), encoding="utf-8") as file:
            pointer: dict[str, str] = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{POINTER} cannot be read; remove it to start again.") from error
    return pointer


def _write_pointer(root: str, pointer: dict[str, str]) -> None:
    """Replace the pointer atomically."""
    path = os.path.join(root, f".{POINTER}")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(pointer, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, os.path.join(root, POINTER))
