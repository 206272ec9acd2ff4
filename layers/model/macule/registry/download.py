"""Download of a model into the local cache, in a child process that `remote` starts."""

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
    """Read a request from standard input, and write the answer to standard output, as JSON.

    A kernel timer ends the process after the time-out, even if it blocks.
    """
    request = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, max(request["timeout_s"], 0.001))
    try:
        answer = {"folder": fetch(**request)}
    except Macule as error:
        answer = {"slug": error.slug, "error": str(error)}
    json.dump(answer, sys.stdout)


def fetch(address: str, pinned: str | None, root: str, timeout_s: float) -> str:
    """Download the model at *address* to *root* unless it is there, and make it the active one.

    *pinned*: the sha256 of the only model file that is allowed.
    Returns: its folder.
    Raises: ModelUnavailable, BadCard.
    """
    idle_timeout_s = timeout_s / 3  # leaves time for another attempt
    try:
        with _exclusive(root):
            source, name = _resolve(address, idle_timeout_s)
            folder = os.path.join(root, name)
            if _is_complete(folder):
                retention.activate(root, name)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                _download(source, name, pinned, root, idle_timeout_s)
    except OSError as error:
        raise ModelUnavailable(
            f"The model cannot be written to its cache ({error.strerror}); see MODEL_CACHE_DIR."
        ) from error
    return folder


@contextmanager
def _exclusive(root: str) -> Iterator[None]:
    """Lock *root* against other downloads, and remove incomplete folders of crashed processes."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(root):
            if name.startswith("."):
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        yield
    finally:
        os.close(lock)


def _resolve(address: str, idle_timeout_s: float) -> tuple[str, str]:
    """Return the URL of the model's folder, following an alias, and its content address."""
    found = storage.read_small(urls.append_path(address, model_card.FILE), idle_timeout_s)
    if found:
        return address, aliases.address(found[0])
    pointer = urls.sibling(address, f"{urls.last_segment(address)}.json")
    found = storage.read_small(pointer, idle_timeout_s)
    if not found:
        raise ModelUnavailable(
            f"{urls.redact(address)} has neither a {model_card.FILE} nor an alias "
            f"{urls.last_segment(pointer)}, or access to them is denied."
        )
    name = aliases.parse(found[0])["now"]
    return urls.sibling(address, name), name


def _is_complete(folder: str) -> bool:
    with suppress(ModelUnavailable, FileNotFoundError):
        local.find(folder)
        with open(os.path.join(folder, model_card.FILE), "rb") as file:
            return aliases.address(file.read()) == os.path.basename(folder)
    return False


def _download(source: str, name: str, pinned: str | None, root: str, idle_timeout_s: float) -> None:
    """Download card and file from *source* to *root*; copy the file if it is there already."""
    found = storage.read_small(urls.append_path(source, model_card.FILE), idle_timeout_s)
    if not found or aliases.address(found[0]) != name:
        raise ModelUnavailable(f"The card at {urls.redact(source)} does not match its address.")
    with retention.install(root, name) as folder:
        with open(os.path.join(folder, model_card.FILE), "wb") as file:
            file.write(found[0])
        card = model_card.read(folder)
        if pinned and pinned != card.sha256:
            raise ModelUnavailable(
                f"MODEL_SHA256 begins {pinned[:12]}, but the sha256 in the card at "
                f"{urls.redact(source)} begins {card.sha256[:12]}."
            )
        path = os.path.join(folder, card.file)
        if copy := _find_local_copy(card.sha256, root):
            shutil.copyfile(copy, path)
        else:
            file_uri = urls.append_path(source, card.file)
            storage.retry(lambda: _stream(file_uri, path, card.sha256, idle_timeout_s))


def _find_local_copy(digest: str, root: str) -> str | None:
    """Return the path of a file with this sha256 in the cache."""
    for folder in filter(_is_complete, retention.folders(root)):
        path, card = local.find(folder)
        if card.sha256 == digest:
            return path
    return None


def _stream(address: str, path: str, expected: str, idle_timeout_s: float) -> None:
    """Write a file and compute its digest on the way, without holding or rereading it."""
    found = storage.read(address, idle_timeout_s)
    if found is None:
        raise ModelUnavailable(f"{urls.redact(address)} is missing, or access is denied.")
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
            f"the limit is {MAX_MODEL_BYTES / MB:.0f} MB. Free some space, or set MODEL_CACHE_DIR."
        )
    if digest.hexdigest() != expected:
        raise ModelUnavailable(
            f"{urls.redact(address)} is not the file its card describes: its sha256 begins "
            f"{digest.hexdigest()[:12]}, the card says {expected[:12]}."
        )
