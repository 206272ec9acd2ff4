"""Where a model comes from: a folder whose file is what its card says, checked by sha256.

Without MODEL_DIR the folder is the one in use: what `macule use` took in, else what ships.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from macule import manifest
from macule.errors import BadRequest, ModelUnavailable

LAYER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHIPPED = os.path.join(LAYER, "weights")
KEPT = os.path.join(LAYER, "models")  # copies that `macule use` took in
POINTER = "use.json"  # in KEPT: which folder is in use, and which was before
CHUNK_BYTES = 2**18
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Weights(NamedTuple):
    """A model file on this machine's disk, and its card."""

    path: str
    card: manifest.Card


def fetch(folder: str | None) -> Weights:
    """Find the model in *folder*, else the one in use, and check its file against its card.

    Raises: BadCard, ModelUnavailable.
    """
    folder = folder or in_use()
    card = manifest.read(folder)
    path = os.path.join(folder, card.file)
    found = _sha256(path, card.file)
    if found != card.sha256:
        raise ModelUnavailable(
            f"{card.file} is not the file its card describes: its sha256 begins {found[:12]}, the "
            f"card says {card.sha256[:12]}. Copy the model's folder again.",
            model=card.name,
        )
    return Weights(path, card)


def in_use() -> str:
    """Return the folder that serves where no other is named."""
    now = _pointer().get("now")
    return os.path.join(KEPT, now) if now else SHIPPED


def use(folder: str) -> str:
    """Take a copy of *folder* in and put it in use; the one before is kept, older ones go.

    A reader finds the old model or the new one, never a part: the copy is renamed into place, then
    the pointer is.
    Returns: the folder now in use.
    Raises: BadCard, ModelUnavailable.
    """
    import shutil

    path, card = fetch(folder)
    kept = f"{card.sha256[:12]}-{os.urandom(4).hex()}"
    os.makedirs(KEPT, exist_ok=True)
    arriving = os.path.join(KEPT, f".{kept}")
    os.mkdir(arriving)
    try:
        for file in (path, os.path.join(folder, manifest.FILE)):
            shutil.copy(file, arriving)
        os.rename(arriving, os.path.join(KEPT, kept))
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    before = _pointer().get("now", "")
    _point({"now": kept, "before": before})
    for name in os.listdir(KEPT):
        if name not in (kept, before, POINTER):
            shutil.rmtree(os.path.join(KEPT, name), ignore_errors=True)
    return in_use()


def back() -> str:
    """Put the model before in use again, and keep the present one as the one before.

    Returns: the folder now in use.
    Raises: BadRequest where there is none.
    """
    pointer = _pointer()
    if "before" not in pointer:
        raise BadRequest("No model was in use before this one.")
    _point({"now": pointer["before"], "before": pointer["now"]})
    return in_use()


def _pointer() -> dict[str, str]:
    """Read the pointer; an empty name is the model that ships."""
    try:
        with open(os.path.join(KEPT, POINTER), encoding="utf-8") as file:
            pointer: dict[str, str] = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{POINTER} cannot be read; remove it to serve what ships."
        ) from error
    return pointer


def _point(pointer: dict[str, str]) -> None:
    """Replace the pointer in one step."""
    arriving = os.path.join(KEPT, f".{POINTER}")
    with open(arriving, "w", encoding="utf-8") as file:
        json.dump(pointer, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(arriving, os.path.join(KEPT, POINTER))


def _sha256(path: str, name: str) -> str:
    """Digest a file in chunks, so that checking it never holds it."""
    from hashlib import sha256

    digest = sha256()
    try:
        with open(path, "rb") as file:
            head = file.read(CHUNK_BYTES)
            if head.startswith(LFS_POINTER):
                raise ModelUnavailable(
                    f"{name} is a git-LFS pointer, not a model. Run `git lfs pull` first."
                )
            while head:
                digest.update(head)
                head = file.read(CHUNK_BYTES)
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{name} is missing from the model's folder.") from error
    except OSError as error:
        raise ModelUnavailable(f"{name} cannot be read from the model's folder.") from error
    return digest.hexdigest()
