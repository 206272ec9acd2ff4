"""DICOM: extraction of the first frame of a photograph or dermoscopy, as JPEG, JPEG 2000 or TIFF.

Only the elements named here are read, none of them about the patient.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

from macule.errors import UnsupportedImage

if TYPE_CHECKING:
    from pydicom import Dataset

MAGIC, MAGIC_OFFSET = b"DICM", 128
CLASSES = {
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image",
}
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}  # little endian, implicit and explicit
# JPEG baseline; JPEG 2000 lossless and lossy.
COMPRESSED = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 90, 91)}
ELEMENTS = (
    "SOPClassUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "ICCProfile",
    "PixelData",
)
COLOURS = {"MONOCHROME2": 1, "RGB": 2}  # TIFF's tag 262
MAX_ICC_SEGMENT_BYTES = 65_519


def is_dicom(body: bytes) -> bool:
    return body[MAGIC_OFFSET : MAGIC_OFFSET + 4] == MAGIC


def prepare() -> None:
    """Import the modules of pydicom that reading a file needs.

    Raises: UnsupportedImage if it is not installed.
    """
    try:
        import pydicom.encaps
        import pydicom.filereader  # noqa: F401
    except ModuleNotFoundError as error:
        raise _unsupported("DICOM needs the extra `dicom`, which is not installed here.") from error


def first_frame(body: bytes) -> bytes:
    """Return the first frame as an image file.

    Raises: UnsupportedImage; pydicom's errors for a damaged file.
    """
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    dataset = dcmread(BytesIO(body), specific_tags=[*ELEMENTS])
    kind, coding = str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID)
    if kind not in CLASSES:
        known = " or ".join(CLASSES.values())
        raise _unsupported(f"The DICOM file has the SOP class {kind}, not {known}.")
    profile = bytes(dataset.get("ICCProfile", b""))
    if coding in COMPRESSED:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=_number(dataset, "NumberOfFrames"))
        return _with_profile(frame, profile)
    if coding not in UNCOMPRESSED:
        raise _unsupported(f"The DICOM file's transfer syntax {coding} is not supported.")
    return _tiff(dataset, profile)


def _unsupported(text: str) -> UnsupportedImage:
    return UnsupportedImage(f"{text} Send a JPEG of the picture.")


def _number(dataset: Dataset, name: str, default: int = 1) -> int:
    return int(dataset.get(name) or default)


def _with_profile(file: bytes, profile: bytes) -> bytes:
    """Insert an ICC profile into a JPEG without one."""
    bare = file.startswith(b"\xff\xd8") and b"ICC_PROFILE\0" not in file[:MAX_ICC_SEGMENT_BYTES]
    if not bare or not 0 < len(profile) <= MAX_ICC_SEGMENT_BYTES:
        return file
    segment = b"ICC_PROFILE\0\1\1" + profile
    return b"".join((file[:2], struct.pack(">HH", 0xFFE2, len(segment) + 2), segment, file[2:]))


def _tiff(dataset: Dataset, profile: bytes) -> bytes:
    """Write rows of 8-bit gray or RGB as an uncompressed TIFF.

    Raises: UnsupportedImage, ValueError.
    """
    sizes = "Columns", "Rows", "SamplesPerPixel"
    width, height, samples = (_number(dataset, name) for name in sizes)
    colours, bits = str(dataset.PhotometricInterpretation), _number(dataset, "BitsAllocated")
    planar = samples > 1 and _number(dataset, "PlanarConfiguration", 0)
    if colours not in COLOURS or bits != 8 or planar:
        raise _unsupported(f"DICOM pixels of {bits} bits in {colours} are not supported.")
    size, pixels = width * height * samples, dataset.PixelData
    if len(pixels) < size:
        raise ValueError(f"{len(pixels)} bytes of pixels, not {size}")
    entries: list[tuple[int, int, int, Any]] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, COLOURS[colours]),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, 1, size),
    ]
    if profile:
        entries.append((34675, 7, len(profile), 8 + size))
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    start = struct.pack("<4sI", b"II*\0", 8 + size + len(profile))
    return b"".join((start, memoryview(pixels)[:size], profile, directory))
