"""Publishing of models to a bucket under content addresses, and updates of aliases."""

from __future__ import annotations

import json
import os
from hashlib import sha256

from macule.errors import BadRequest, ModelUnavailable
from macule.registry import aliases, local, model_card, storage
from macule.settings import urls

IDLE_TIMEOUT_S = 60.0


def publish(folder: str, target: str, name: str) -> str:
    """Upload the model in *folder* below *target*, and point the alias *name* to it.

    The file is uploaded before the card, and the alias is written last, so that readers never find
    an incomplete model.
    Returns: the model's address.
    Raises: BadCard, ModelUnavailable, BadRequest.
    """
    path, card = local.find(folder)
    with open(os.path.join(folder, model_card.FILE), "rb") as file:
        card_bytes = file.read()
    address = aliases.address(card_bytes)
    with open(path, "rb") as file:
        _write_once(urls.append_path(target, address, card.file), file.read())
    _write_once(urls.append_path(target, address, model_card.FILE), card_bytes)
    before, version = read_alias(target, name)
    if before.get("now") != address:
        _write_alias(target, name, {"now": address, "before": before.get("now", "")}, version)
    return address


def rollback(target: str, name: str) -> str:
    """Swap the current and the previous model of the alias *name*.

    Returns: the address of the current model.
    Raises: BadRequest if there is no previous model; ModelUnavailable.
    """
    pointer, version = read_alias(target, name)
    before = pointer.get("before", "")
    if not before:
        raise BadRequest(f"The alias {name} has no previous model.")
    if not storage.read_small(urls.append_path(target, before, model_card.FILE), IDLE_TIMEOUT_S):
        raise ModelUnavailable(f"The previous model, {before[:12]}, no longer exists.")
    _write_alias(target, name, {"now": before, "before": pointer["now"]}, version)
    return before


def _write_once(address: str, content: bytes) -> None:
    """Write an object unless it exists; an existing one must have the same content."""
    if storage.retry(lambda: storage.write(address, content, "", IDLE_TIMEOUT_S)):
        return
    if storage.retry(lambda: _digest(address)) != sha256(content).hexdigest():
        raise ModelUnavailable(
            f"{urls.redact(address)} exists with other content. Remove it, and publish again."
        )


def _digest(address: str) -> str:
    found = storage.read(address, IDLE_TIMEOUT_S)
    digest = sha256()
    for piece in found[2] if found else ():
        digest.update(piece)
    return digest.hexdigest()


def read_alias(target: str, name: str) -> tuple[dict[str, str], str]:
    """Return the alias and its version in the bucket; an empty alias where there is none."""
    found = storage.read_small(urls.append_path(target, f"{name}.json"), IDLE_TIMEOUT_S)
    return (aliases.parse(found[0]), found[1]) if found else ({}, "")


def _write_alias(target: str, name: str, pointer: dict[str, str], version: str) -> None:
    """Write the alias unless it has changed since it was read."""
    address, content = urls.append_path(target, f"{name}.json"), json.dumps(pointer).encode()
    if not storage.retry(lambda: storage.write(address, content, version, IDLE_TIMEOUT_S)):
        raise BadRequest(f"The alias {name} was changed meanwhile. Check it, and try again.")
