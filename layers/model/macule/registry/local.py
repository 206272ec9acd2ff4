"""Where a model comes from: a folder whose file is what its card says, checked by sha256.

Where no folder is named it is the one in use: what `macule use` took in, else what ships.
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
# Copies that `macule use` took in lie beside the sources of a checkout, which several environments
# share, else in the environment that macule is installed in: what it serves is a part of it.
CHECKOUT = os.path.dirname(PACKAGE)
IS_CHECKOUT = os.path.exists(os.path.join(CHECKOUT, "pyproject.toml"))
MODELS_DIR = os.path.join(
    *((CHECKOUT,) if IS_CHECKOUT else (sys.prefix, "share", "macule")), "models"
)
CHUNK_BYTES = 2**18
FLATBUFFER_IDENTIFIER = b"TFL3"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Weights(NamedTuple):
    """A model file on this machine's disk, and its card."""

    path: str
    card: model_card.Card


def find(folder: str | None) -> Weights:
    """Find the model in *folder*, else the one in use, and check its file against its card.

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
            f"{card.file} is not a model that LiteRT can run: its root lies outside.",
            model=card.name,
        )
    return Weights(path, card)


def active_folder() -> str:
    """Return the folder that serves where no other is named."""
    return retention.active(MODELS_DIR) or DEFAULT_MODEL_DIR


def activate(folder: str) -> str:
    """Take a copy of *folder* in and put it in use; the one before is kept, older ones go.

    Returns: the folder now in use.
    Raises: BadCard, ModelUnavailable.
    """
    import shutil

    path, card = find(folder)
    with retention.install(MODELS_DIR, f"{card.sha256[:12]}-{os.urandom(4).hex()}") as copy:
        for file in (path, os.path.join(folder, model_card.FILE)):
            shutil.copy(file, copy)
    return active_folder()


def roll_back() -> str:
    """Put the model before in use again, and keep the present one as the one before.

    Returns: the folder now in use.
    Raises: BadRequest where there is none.
    """
    retention.roll_back(MODELS_DIR)
    return active_folder()


def _is_model_file(path: str) -> bool:
    """Is it marked as a model, and does its root table lie within it?"""
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
