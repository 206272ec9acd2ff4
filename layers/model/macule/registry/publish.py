"""Puts models into a bucket, each under its own address, and moves the aliases that name them."""

from __future__ import annotations

import json
import os
from hashlib import sha256

from macule.errors import BadRequest, ModelUnavailable
from macule.registry import aliases, local, model_card, storage
from macule.settings import urls

IDLE_TIMEOUT_S = 60.0


def publish(folder: str, target: str, name: str) -> str:
    """Upload the model in *folder* below *target*, and have the alias *name* name it.

    The card goes up after its file and the alias after both, so that a reader never finds a part.
    Returns: the model's address.
    Raises: BadCard, ModelUnavailable, BadRequest.
    """
    path, card = local.find(folder)
    with open(os.path.join(folder, model_card.FILE), "rb") as file:
        described = file.read()
    address = aliases.address(described)
    with open(path, "rb") as file:
        _write_once(urls.append_path(target, address, card.file), file.read())
    _write_once(urls.append_path(target, address, model_card.FILE), described)
    before, version = _read_alias(target, name)
    if before.get("now") != address:
        _write_alias(target, name, {"now": address, "before": before.get("now", "")}, version)
    return address


def rollback(target: str, name: str) -> str:
    """Have the alias *name* name the model before, and keep the present one as the one before.

    Returns: the address that it names now.
    Raises: BadRequest where there is none, ModelUnavailable.
    """
    pointer, version = _read_alias(target, name)
    before = pointer.get("before", "")
    if not before:
        raise BadRequest(f"The alias {name} named no model before this one.")
    if not storage.read_small(urls.append_path(target, before, model_card.FILE), IDLE_TIMEOUT_S):
        raise ModelUnavailable(f"The model before, {before[:12]}, is no longer there.")
    _write_alias(target, name, {"now": before, "before": pointer["now"]}, version)
    return before


def _write_once(address: str, content: bytes) -> None:
    """Write what is not there yet; what is there under its address must be the same."""
    if storage.retry(lambda: storage.write(address, content, "", IDLE_TIMEOUT_S)):
        return
    if storage.retry(lambda: _digest(address)) != sha256(content).hexdigest():
        raise ModelUnavailable(
            f"{urls.redact(address)} is there with another content. Remove it, and publish again."
        )


def _digest(address: str) -> str:
    found = storage.read(address, IDLE_TIMEOUT_S)
    digest = sha256()
    for piece in found[2] if found else ():
        digest.update(piece)
    return digest.hexdigest()


def _read_alias(target: str, name: str) -> tuple[dict[str, str], str]:
    found = storage.read_small(urls.append_path(target, f"{name}.json"), IDLE_TIMEOUT_S)
    return (aliases.parse(found[0]), found[1]) if found else ({}, "")


def _write_alias(target: str, name: str, pointer: dict[str, str], version: str) -> None:
    """Write the alias unless somebody else has since it was read."""
    address, content = urls.append_path(target, f"{name}.json"), json.dumps(pointer).encode()
    if not storage.retry(lambda: storage.write(address, content, version, IDLE_TIMEOUT_S)):
        raise BadRequest(f"Somebody moved the alias {name} meanwhile. Look, and try again.")
