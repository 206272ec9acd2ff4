"""Where a model comes from: a folder whose file is what its card says, checked by sha256."""

from __future__ import annotations

import os
from typing import NamedTuple

from macule import manifest
from macule.errors import ModelUnavailable

CHUNK_BYTES = 2**18
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Weights(NamedTuple):
    """A model file on this machine's disk, and its card."""

    path: str
    card: manifest.Card


def fetch(folder: str) -> Weights:
    """Find the model in *folder* and check its file against its card.

    Raises: BadCard, ModelUnavailable.
    """
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
