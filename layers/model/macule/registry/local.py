"""Models on this machine: verify a folder by sha256, and manage the installed models.

Without a folder the active model is meant: installed by `macule use`, or else the default model.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import NamedTuple

from macule.errors import ModelUnavailable
from macule.registry import model_card, retention

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEFAULT_MODEL_DIR = os.path.join(PACKAGE, "weights")
# `macule use` copies models beside the sources of a checkout, which several environments share,
# or else into the environment that macule is installed in, as the served model is part of it.
CHECKOUT = os.path.dirname(PACKAGE)
IS_CHECKOUT = os.path.exists(os.path.join(CHECKOUT, "pyproject.toml"))
MODELS_DIR = os.path.join(
    *((CHECKOUT,) if IS_CHECKOUT else (sys.prefix, "share", "macule")), "models"
)
FLATBUFFER_IDENTIFIER = b"TFL3"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Weights(NamedTuple):
    """A model file on this machine's disk, and its card."""

    path: str
    card: model_card.Card


def find(folder: str | None) -> Weights:
    """Return the model in *folder*, or the active one, after checking its file against its card.

    Raises: BadCard, ModelUnavailable.
    """
    folder = folder or active_folder()
    card = model_card.read(folder)
    path = os.path.join(folder, card.file)
    found = _sha256(path, card.file)
    if found != card.sha256:
        raise ModelUnavailable(
            f"{card.file} is not the file its card describes: its sha256 begins {found[:12]}, the "
            f"card says {card.sha256[:12]}. Copy the model's folder again.",
            model=card.name,
        )
    if not _is_model_file(path):
        raise ModelUnavailable(
            f"{card.file} is not a model that LiteRT can run: its root table is out of bounds.",
            model=card.name,
        )
    return Weights(path, card)


def active_folder() -> str:
    return retention.active(MODELS_DIR) or DEFAULT_MODEL_DIR


def activate(folder: str) -> None:
    """Copy *folder* and make the copy the active model; older models than the previous are removed.

    Raises: BadCard, ModelUnavailable.
    """
    import shutil

    path, card = find(folder)
    with retention.install(MODELS_DIR, f"{card.sha256[:12]}-{os.urandom(4).hex()}") as copy:
        for file in (path, os.path.join(folder, model_card.FILE)):
            shutil.copy(file, copy)


def roll_back() -> None:
    """Swap the active model and the previous one.

    Raises: BadRequest if there is no previous model.
    """
    retention.roll_back(MODELS_DIR)


def _is_model_file(path: str) -> bool:
    """Return whether the file has the identifier of a model and its root table within bounds."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            root, kind = struct.unpack("<I4s", file.read(8))
            file.seek(root)
            table = root - struct.unpack("<i", file.read(4))[0]
    except (OSError, struct.error):
        return False
    return bool(kind == FLATBUFFER_IDENTIFIER and root >= 8) and 8 <= table <= size - 4


def _sha256(path: str, name: str) -> str:
    from hashlib import file_digest

    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelUnavailable(
                    f"{name} is a git-LFS pointer, not a model. Run `git lfs pull` first."
                )
            file.seek(0)
            return file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{name} is missing from the model's folder.") from error
    except OSError as error:
        raise ModelUnavailable(f"{name} cannot be read from the model's folder.") from error
