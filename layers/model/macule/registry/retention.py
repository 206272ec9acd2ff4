"""A folder of models of which one is in use: that one and the one before are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from macule.errors import BadRequest, ModelUnavailable

POINTER = "use.json"  # which is in use, and which was before; an empty name is none of these


def active(root: str) -> str | None:
    """Return the folder in use, if one is."""
    name = _read_pointer(root).get("now")
    return os.path.join(root, name) if name else None


def folders(root: str) -> list[str]:
    """Return all that are kept."""
    names = os.listdir(root) if os.path.isdir(root) else []
    return [os.path.join(root, name) for name in names if name != POINTER and name[0] != "."]


@contextmanager
def install(root: str, name: str) -> Iterator[str]:
    """Yield an empty folder to be filled; it becomes *name*, in use, if the block ends well.

    A reader finds the old model or the new one, never a part: the folder is renamed into place,
    then the pointer is replaced.
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
    """Put *name* in use; the one before stays, older ones go."""
    import shutil

    before = _read_pointer(root).get("now", "")
    if before == name:
        return
    _write_pointer(root, {"now": name, "before": before})
    for other in os.listdir(root):
        if other not in (name, before, POINTER):
            shutil.rmtree(os.path.join(root, other), ignore_errors=True)


def roll_back(root: str) -> None:
    """Put the one before in use again, and keep the present one as the one before.

    Raises: BadRequest where there is none.
    """
    pointer = _read_pointer(root)
    if "before" not in pointer:
        raise BadRequest("No model was in use before this one.")
    _write_pointer(root, {"now": pointer["before"], "before": pointer["now"]})


def _read_pointer(root: str) -> dict[str, str]:
    try:
        with open(os.path.join(root, POINTER), encoding="utf-8") as file:
            pointer: dict[str, str] = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{POINTER} cannot be read; remove it to begin anew.") from error
    return pointer


def _write_pointer(root: str, pointer: dict[str, str]) -> None:
    """Replace the pointer in one step."""
    path = os.path.join(root, f".{POINTER}")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(pointer, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, os.path.join(root, POINTER))
