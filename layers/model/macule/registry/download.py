"""Brings a model to this machine; runs in a process of its own, which `remote` starts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from macule.errors import Macule, ModelUnavailable
from macule.registry import aliases, local, model_card, retention, storage
from macule.settings import urls

MB = 2**20
MAX_MODEL_BYTES = 1024 * MB


def main() -> None:
    """Do what standard input asks, and answer on standard output, both in JSON.

    The kernel ends the process when its time is over, whatever it waits for.
    """
    order = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, max(order["timeout_s"], 0.001))
    try:
        answer = {"folder": fetch(**order)}
    except Macule as error:
        answer = {"slug": error.slug, "error": str(error)}
    json.dump(answer, sys.stdout)


def fetch(address: str, pinned: str | None, root: str, timeout_s: float) -> str:
    """Have the model that lies at *address* in *root*, and in use there; load only what is missing.

    *pinned*: the sha256 of the only file that may come.
    Returns: its folder.
    Raises: ModelUnavailable, BadCard.
    """
    quiet_s = timeout_s / 3  # so that there is time for another try
    try:
        with _exclusive(root):
            place, name = _resolve(address, quiet_s)
            folder = os.path.join(root, name)
            if _is_complete(folder):
                retention.activate(root, name)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                _download(place, name, pinned, root, quiet_s)
    except OSError as error:
        raise ModelUnavailable(
            f"The model cannot be written to its cache ({error.strerror}); see MODEL_CACHE_DIR."
        ) from error
    return folder


@contextmanager
def _exclusive(root: str) -> Iterator[None]:
    """Wait until no other process loads into *root*; what the dead left half-loaded goes."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(root):
            if name.startswith("."):
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        yield
    finally:
        os.close(lock)


def _resolve(address: str, quiet_s: float) -> tuple[str, str]:
    """Find the folder that *address* names, itself or by an alias, and the model's own address."""
    found = storage.read_small(urls.append_path(address, model_card.FILE), quiet_s)
    if found:
        return address, aliases.address(found[0])
    pointer = urls.sibling(address, f"{urls.last_segment(address)}.json")
    found = storage.read_small(pointer, quiet_s)
    if not found:
        raise ModelUnavailable(
            f"There is neither a {model_card.FILE} below {urls.redact(address)} nor an alias "
            f"{urls.last_segment(pointer)}, or they may not be read."
        )
    name = aliases.parse(found[0])["now"]
    return urls.sibling(address, name), name


def _is_complete(folder: str) -> bool:
    with suppress(ModelUnavailable, FileNotFoundError):
        local.find(folder)
        with open(os.path.join(folder, model_card.FILE), "rb") as file:
            return aliases.address(file.read()) == os.path.basename(folder)
    return False


def _download(place: str, name: str, pinned: str | None, root: str, quiet_s: float) -> None:
    """Load card and file from *place* into *root*; a file that another card came with is taken."""
    found = storage.read_small(urls.append_path(place, model_card.FILE), quiet_s)
    if not found or aliases.address(found[0]) != name:
        raise ModelUnavailable(f"The card at {urls.redact(place)} is not the one expected there.")
    with retention.install(root, name) as folder:
        with open(os.path.join(folder, model_card.FILE), "wb") as file:
            file.write(found[0])
        card = model_card.read(folder)
        if pinned and pinned != card.sha256:
            raise ModelUnavailable(
                f"MODEL_SHA256 begins {pinned[:12]}, but the card at {urls.redact(place)} is of "
                f"{card.sha256[:12]}."
            )
        path = os.path.join(folder, card.file)
        if here := _find_local_copy(card.sha256, root):
            shutil.copyfile(here, path)
        else:
            file_uri = urls.append_path(place, card.file)
            storage.retry(lambda: _stream(file_uri, path, card.sha256, quiet_s))


def _find_local_copy(digest: str, root: str) -> str | None:
    """Find a file that came with another card."""
    for folder in filter(_is_complete, retention.folders(root)):
        path, card = local.find(folder)
        if card.sha256 == digest:
            return path
    return None


def _stream(address: str, path: str, expected: str, quiet_s: float) -> None:
    """Write a file while its digest is made, so that it is never held nor read twice."""
    found = storage.read(address, quiet_s)
    if found is None:
        raise ModelUnavailable(f"{urls.redact(address)} is missing, or may not be read.")
    announced, _, pieces = found
    disk = os.statvfs(os.path.dirname(path))
    free = disk.f_bavail * disk.f_frsize
    most = min(free, MAX_MODEL_BYTES)
    digest, size = sha256(), announced or 0
    with open(path, "wb") as file:
        for piece in pieces if size <= most else ():
            file.write(piece)
            digest.update(piece)
            size = max(size, file.tell())
            if size > most:
                break
        file.flush()
        os.fsync(file.fileno())
    if size > most:
        raise ModelUnavailable(
            f"The model has {size / MB:.0f} MB or more; its cache has {free / MB:.0f} MB free, and "
            f"{MAX_MODEL_BYTES / MB:.0f} MB is the most. Give it room, or set MODEL_CACHE_DIR."
        )
    if digest.hexdigest() != expected:
        raise ModelUnavailable(
            f"{urls.redact(address)} is not the file its card describes: its sha256 begins "
            f"{digest.hexdigest()[:12]}, the card says {expected[:12]}."
        )
