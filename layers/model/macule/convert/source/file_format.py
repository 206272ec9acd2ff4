"""What a path holds, told by its first bytes and never by its name."""

import zipfile
from pathlib import Path

from macule.convert.errors import ConversionError

TEXT_BYTES = 512


def detect_format(path: Path) -> str:
    """Tell the format of *path*.

    Returns: "SavedModel", "zip" (Keras's `.keras`), "h5" or "tflite".
    Raises: Refused for everything else, in the words of what it is.
    """
    name = path.name
    if path.is_dir():
        return detect_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(TEXT_BYTES)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise ConversionError(f"{path} cannot be opened ({reason}): check the path.") from error
    if not head:
        raise ConversionError(f"{name} is empty: download or save the model again.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"PK\x03\x04"):
        return detect_archive(path)
    raise ConversionError(describe_unknown(name, head))


def detect_folder(path: Path) -> str:
    """Tell a SavedModel from other folders."""
    if (path / "saved_model.pb").is_file():
        return "SavedModel"
    inside = [
        file.name for file in sorted(path.iterdir()) if file.suffix in (".keras", ".h5", ".tflite")
    ]
    hint = f"give the file {inside[0]} in it" if inside else "give a model's file or SavedModel"
    raise ConversionError(f"The folder {path.name} has no saved_model.pb: {hint}.")


def detect_archive(path: Path) -> str:
    """Tell a `.keras` archive from other zips."""
    name = path.name
    try:
        with zipfile.ZipFile(path) as opened:
            members = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ConversionError(
            f"{name} is cut off or damaged: download or save it again."
        ) from error
    if "config.json" in members:
        return "zip"
    if any(member.endswith("data.pkl") for member in members):
        raise ConversionError(
            f"{name} is a PyTorch file, which holds pickled code that is not run here: "
            "export the network to a TensorFlow SavedModel or to .tflite first."
        )
    models = (".h5", ".keras", ".tflite", "saved_model.pb")
    found = next((member for member in members if member.endswith(models)), None)
    if found:
        raise ConversionError(f"{name} is a zip with {found} inside: unpack it and give that.")
    raise ConversionError(f"{name} is a zip without a Keras model: give a file of model.save().")


def describe_unknown(name: str, head: bytes) -> str:
    """Say what a file is that is no model of a known kind."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return (
            f"{name} is a git-LFS pointer, not the model: run `git lfs pull` where it came from, "
            "or download the file itself."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{name} is a web page, not a model: download the raw file instead of its page."
    if start.startswith((b"{", b"[")):
        return (
            f"{name} is JSON (an architecture alone, or a TensorFlow.js model): give the file "
            "that model.save() wrote in Python."
        )
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            f"{name} is a Python pickle, which is never opened here: save the model with "
            "model.save('model.keras')."
        )
    if head.startswith(b"\x1f\x8b"):
        return f"{name} is a gzip archive: unpack it and give the model inside."
    if b"\x00" not in head and all(byte >= 9 for byte in head):
        return f"{name} is text, not a model: give the file that model.save() wrote."
    return (
        f"{name} is no Keras, SavedModel or .tflite file, or its beginning is damaged: "
        "give a file of model.save(), model.export() or the TFLite converter."
    )
