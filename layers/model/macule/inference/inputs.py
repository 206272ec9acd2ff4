"""Input types of `Classifier.predict`: the bytes of an image file, or a picture in memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from macule.errors import BadRequest, BodyTooLarge, Unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

# Pillow modes that the decoder can convert to RGB.
MODES = frozenset(
    "1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV I I;16 I;16L I;16B F".split()  # noqa: SIM905
)
ACCEPTED = "a path, bytes, a file opened in binary mode, a PIL image or a uint8 array (h, w, 3)"


class Readable(Protocol):
    """A file opened in binary mode, or an upload of a web framework."""

    def read(self, size: int, /) -> bytes: ...


if TYPE_CHECKING:
    File = str | os.PathLike[str] | Readable
    Photo = File | bytes | bytearray | memoryview | Image | NDArray[np.uint8]


def read(photo: Photo, max_bytes: int) -> bytes | Image:
    """Return the bytes of an image file, or a picture for input without a file.

    Raises: Unreadable, BodyTooLarge; BadRequest for a type other than ACCEPTED.
    """
    if isinstance(photo, str | os.PathLike):
        body = _read_path(photo, max_bytes)
    elif isinstance(photo, bytes | bytearray | memoryview):
        body = bytes(photo)
    elif _is_instance(photo, "PIL.Image", "Image"):
        return _checked_picture(photo)
    elif _is_instance(photo, "numpy", "ndarray"):
        return _picture_of_array(photo)
    elif hasattr(photo, "read"):
        body = _read_file(photo, max_bytes)
    else:
        raise BadRequest(f"The photo is of type {type(photo).__name__}; expected {ACCEPTED}.")
    if len(body) > max_bytes:
        raise BodyTooLarge(
            f"The photo has more than {max_bytes:,} bytes (max_bytes). Send a smaller copy.",
            limit_bytes=max_bytes,
        )
    if not body:
        raise BadRequest("The photo has 0 bytes. If its file was read before, call seek(0) first.")
    return body


def _read_path(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or "not a valid file name"
        hint = " URLs are not supported: download the photo first." if "://" in str(path) else ""
        raise Unreadable(f"{str(path)[:200]}: {reason}.{hint}") from error


def _read_file(file: Readable, max_bytes: int) -> bytes:
    """Read at most *max_bytes* + 1 bytes; an unbuffered file may return fewer bytes per call."""
    parts, missing = [], max_bytes + 1
    try:
        while missing > 0 and (part := file.read(missing)):
            parts.append(bytes(memoryview(part)))
            missing -= len(parts[-1])
    except TypeError as error:
        raise BadRequest("The file does not return bytes; open it in binary mode, 'rb'.") from error
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise Unreadable(f"The file cannot be read: {error}.") from error
    return b"".join(parts)


def _is_instance(photo: object, module: str, name: str) -> bool:
    """Return whether *photo* is an instance; without importing the module of its class."""
    found: Any = sys.modules.get(module)
    return found is not None and isinstance(photo, getattr(found, name))


def _checked_picture(picture: Any) -> Image:
    mode = picture.mode
    if mode not in MODES:
        raise BadRequest(f"The picture's mode {mode} is not supported; convert it to RGB first.")
    if 0 in picture.size:
        raise BadRequest(f"The picture of {picture.width} x {picture.height} has no pixels.")
    checked: Image = picture
    return checked


def _picture_of_array(pixels: Any) -> Image:
    if pixels.dtype.name != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BadRequest(
            f"The array is {pixels.dtype} of shape {pixels.shape}; expected one photo's RGB values "
            "0 to 255: uint8, shape (height, width, 3)."
        )
    if 0 in pixels.shape:
        raise BadRequest(f"The array of shape {pixels.shape} has no pixels.")
    from PIL.Image import fromarray

    return fromarray(pixels)
