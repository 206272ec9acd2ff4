"""Format detection by magic bytes, and opening of a file with the plugin of its format."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from macule.errors import BadImage, CannotFit, SlowImage, UnsupportedImage
from macule.inference.decoding.formats import avif, dicom, heif, ico, isobmff, jpeg, png, webp

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

SUPPORTED = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF, JPEG 2000 or ICO"
# First bytes -> Pillow plugin. Opening by plugin class leaves Pillow's other forty unloaded.
PLUGINS = {
    b"\xff\xd8\xff": "Jpeg",
    png.SIGNATURE: "Png",
    b"GIF8": "Gif",
    b"BM": "Bmp",
    b"II*\0": "Tiff",
    b"MM\0*": "Tiff",
    b"II+\0": "Tiff",
    b"MM\0+": "Tiff",
    b"\0\0\0\x0cjP  \r\n\x87\n": "Jpeg2K",
    b"\xff\x4f\xff\x51": "Jpeg2K",
    ico.SIGNATURE: "Ico",
}
# Known formats that are not supported, by their first bytes.
UNSUPPORTED = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop document",
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"\x1aE\xdf\xa3": "a video",
    b"<": "a web page or an SVG drawing",
    b"{": "JSON",
    b"data:": "a data: URI",
    b"/9j/": "the base64 of a JPEG",
    b"iVBOR": "the base64 of a PNG",
}
HINTS = {
    "JSON": "Send it with the Content-Type application/json.",
    "a data: URI": 'Send it as JSON: {"image": "data:..."}.',
    "the base64 of a JPEG": 'Send it as JSON: {"image": "<base64>"}, or decode it first.',
    "the base64 of a PNG": 'Send it as JSON: {"image": "<base64>"}, or decode it first.',
}
# Pillow imports these lazily for a GIF, a colour name, a palette, EXIF or an ICC profile.
LAZY_IMPORTS = ("copy", "PIL.ImageCms", "PIL.ImageColor", "PIL.ImagePalette", "PIL.TiffImagePlugin")
DICOM_PAYLOADS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"II*\0")
READ_BYTES = 2**16
# A block of a multi-scan JPEG can contain hundreds of scans of the whole image, so it is read in
# small blocks, with a deadline check between them. For all files this would cost 10 % of the rate.
SCAN_BYTES = 2**12
MAX_PNG_TEXT_BYTES = 2**20  # Pillow's own limit is 64 MB of inflated comments


class Deadline:
    """A point in time after which `check` raises SlowImage."""

    def __init__(self, timeout_s: float = inf) -> None:
        self._timeout_s = timeout_s
        self._end = monotonic() + timeout_s

    def check(self) -> None:
        if monotonic() > self._end:
            raise slow_image(self._timeout_s)


def slow_image(timeout_s: float) -> SlowImage:
    """Return the error for an image that is not decoded within *timeout_s*."""
    return SlowImage(
        f"Decoding took longer than {timeout_s:g} s. Save the image again as a baseline JPEG.",
        timeout_s=timeout_s,
    )


class Source(BytesIO):
    """A file whose reads fail after a deadline, as Pillow reads and decodes block by block.

    `at_end` is called for more bytes at the end of the file.
    """

    at_end: Callable[[], bytes] | None = None

    def __init__(self, body: bytes, deadline: Deadline) -> None:
        super().__init__(body)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        self._deadline.check()
        piece = super().read(size)
        return self.at_end() if not piece and size and self.at_end else piece


def prepare(body: bytes) -> None:
    """Import all modules but numpy that reading *body* needs, so that no file is opened later.

    Raises: UnsupportedImage.
    """
    if dicom.is_dicom(body):
        dicom.prepare()
        for magic in DICOM_PAYLOADS:
            _plugin(magic)
    else:
        _plugin(body)
    for name in LAZY_IMPORTS:
        import_module(name)


def unwrap(body: bytes) -> bytes:
    """Return the image inside a container such as DICOM or ICO; else *body* itself.

    Raises: ValueError, struct.error.
    """
    if body.startswith(ico.SIGNATURE):
        return ico.largest(body)
    return dicom.first_frame(body) if dicom.is_dicom(body) else body


def open_image(body: bytes, deadline: Deadline) -> ImageFile:
    """Open *body* with the plugin of its format, without decoding pixels.

    Raises: UnsupportedImage; Pillow's errors, which `decoder_errors` converts.
    """
    plugin = _plugin(body)
    try:
        image = plugin(Source(body, deadline))
    except ValueError:
        # Pillow refuses a PNG with a too large text or profile; retry without them.
        if not body.startswith(png.SIGNATURE):
            raise
        image = plugin(Source(png.without_metadata(body), deadline))
    if image.format == "HEIF":
        return image
    image.decodermaxblock = SCAN_BYTES if jpeg.coefficients(image, body) else READ_BYTES
    if image.format == "PNG" and "exif" not in image.info and (late := png.exif(body)):
        image.info["exif"] = late
    return image


def _plugin(body: bytes) -> type[ImageFile]:
    """Import the Pillow plugin for the magic bytes of *body*.

    Raises: UnsupportedImage.
    """
    name = next((PLUGINS[magic] for magic in PLUGINS if body.startswith(magic)), None)
    brands = set(isobmff.brands(body))
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        name = "WebP"
    elif brands & avif.BRANDS and body[8:12] != avif.ANIMATED:
        name = "Avif"
    elif brands & heif.BRANDS and avif.ANIMATED not in brands:
        return _heic_plugin()
    if name is None:
        raise _unsupported(body, brands)
    try:
        if name == "WebP":
            webp.library()
        module = import_module(f"PIL.{name}ImagePlugin")
    except (ImportError, AttributeError) as error:
        raise UnsupportedImage(
            f"{name} is not supported here, as this Pillow was built without it. Send a JPEG."
        ) from error
    if name == "Png":
        vars(module)["MAX_TEXT_MEMORY"] = MAX_PNG_TEXT_BYTES
    if name == "Avif":
        vars(module)["DEFAULT_MAX_THREADS"] = 1  # each thread holds its own rows
    plugin: type[ImageFile] = getattr(module, f"{name}ImageFile")
    return plugin


def _heic_plugin() -> type[ImageFile]:
    try:
        return heif.plugin()
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "HEIC photos are not served here. Send a JPEG: on an iPhone, Settings, Camera, Formats,"
            " Most Compatible; or share the photo instead of uploading its file."
        ) from error


def _unsupported(body: bytes, brands: set[bytes]) -> UnsupportedImage:
    start = body[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
    known = next((UNSUPPORTED[magic] for magic in UNSUPPORTED if start.startswith(magic)), "")
    if brands and not known:
        known = "an animated AVIF" if avif.ANIMATED in brands else "a video (MP4 or MOV)"
    what = f"{known}, not" if known else "not"
    hint = HINTS.get(known, "Send one of these.")
    return UnsupportedImage(f"The bytes are {what} {SUPPORTED}. {hint}")


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Convert the errors of decoders into BadImage, and silence their warnings."""
    from PIL.Image import DecompressionBombError

    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    except MemoryError as error:
        raise CannotFit("There is not enough memory to decode this image.") from error
    except PermissionError:  # a bug here: the sandbox refused to open a file
        raise
    except (
        # Found by fuzzing every plugin with broken files.
        ArithmeticError,
        AttributeError,
        DecompressionBombError,
        LookupError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
        EOFError,
    ) as error:
        raise BadImage(
            "The file is damaged or of an unusual kind. Open it in an image editor and save it "
            "again as JPEG or PNG."
        ) from error
