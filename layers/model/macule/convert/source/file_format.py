"""Detection of a model's file format by its first bytes, not by its name."""

import zipfile
from pathlib import Path

from macule.convert.errors import BadInput

TEXT_BYTES = 512


def detect_format(path: Path) -> str:
    """Detect the format of *path*.

    Returns: "SavedModel", "zip" (Keras's `.keras`), "h5" or "tflite".
    Raises: BadInput for all other formats, with a description.
    """
    name = path.name
    if path.is_dir():
        return detect_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(TEXT_BYTES)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise BadInput(f"{path} cannot be opened ({reason}): check the path.") from error
    if not head:
        raise BadInput(f"{name} is empty: download or save the model again.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"PK\x03\x04"):
        return detect_archive(path)
    raise BadInput(describe_unknown(name, head))


def detect_folder(path: Path) -> str:
    """Return "SavedModel", or reject the folder."""
    if (path / "saved_model.pb").is_file():
        return "SavedModel"
    suffixes = (".keras", ".h5", ".tflite")
    inside = [file.name for file in sorted(path.iterdir()) if file.suffix in suffixes]
    hint = f"use the file {inside[0]} in it" if inside else "use a model file or a SavedModel"
    raise BadInput(f"The folder {path.name} has no saved_model.pb: {hint}.")


def detect_archive(path: Path) -> str:
    """Return "zip" for a `.keras` archive, or reject the file."""
    name = path.name
    try:
        with zipfile.ZipFile(path) as opened:
            members = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(name) from error
    if "config.json" in members:
        return "zip"
    if any(member.endswith("data.pkl") for member in members):
        raise BadInput(
            f"{name} is a PyTorch file with pickled code, which macule does not run: "
            "export the network to a TensorFlow SavedModel or to .tflite first."
        )
    models = (".h5", ".keras", ".tflite", "saved_model.pb")
    found = next((member for member in members if member.endswith(models)), None)
    if found:
        raise BadInput(f"{name} is a zip file with {found} inside: extract it and use that file.")
    raise BadInput(f"{name} is a zip file without a Keras model: use a file from model.save().")


def damaged(name: str) -> BadInput:
    return BadInput(f"{name} is incomplete or damaged: download or save it again.")


def describe_unknown(name: str, head: bytes) -> str:
    """Return the error message for a file in an unknown format."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return (
            f"{name} is a Git LFS pointer, not the model: run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{name} is a web page, not a model: download the raw file instead."
    if start.startswith((b"{", b"[")):
        return (
            f"{name} is JSON (an architecture only, or a TensorFlow.js model): use the file "
            "that model.save() wrote in Python."
        )
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            f"{name} is a Python pickle, which macule never loads: save the model with "
            "model.save('model.keras')."
        )
    if head.startswith(b"\x1f\x8b"):
        return f"{name} is a gzip archive: extract it and use the model inside."
    if b"\x00" not in head and all(byte >= 9 for byte in head):
        return f"{name} is text, not a model: use the file that model.save() wrote."
    return (
        f"{name} is not a Keras, SavedModel or .tflite file, or its beginning is damaged: "
        "use a file from model.save(), model.export() or the TFLite converter."
    )
