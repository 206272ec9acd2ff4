"""Image headers: size, mode, orientation, and the memory that decoding takes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from macule.errors import ImageTooLarge
from macule.inference.decoding import formats
from macule.inference.decoding.formats import avif, heif, jpeg, jpeg2000, png, tiff, webp

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

ORIENTATION_TAG = 0x0112
# EXIF orientation -> name of the Pillow transpose that makes the image upright.
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
UNWRAP_COPIES = 2  # of a picture that is extracted from a container
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height


class Header(NamedTuple):
    """Format, size in pixels before rotation, Pillow mode and EXIF orientation of an image.

    `held_bytes`: bytes per pixel that the decoder holds beside the image: 0 for a baseline JPEG,
    3 for a progressive one in 4:2:0. `stripped`: decoded in strips or scaled during decoding, never
    held whole. `scales`: divisors of width and height that the decoder supports, the largest first.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    held_bytes: float
    stripped: bool
    scales: tuple[int, ...] = ()

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels of the upright image."""
        turned = self.orientation in TRANSPOSED
        return (self.height, self.width) if turned else (self.width, self.height)


def inspect(body: bytes, max_pixels: int) -> Header:
    """Return the header of *body* without decoding pixels.

    Raises: UnsupportedImage, BadImage, ImageTooLarge.
    """
    with formats.decoder_errors():
        file, body = body, formats.unwrap(body)
        image = formats.open_image(body, formats.Deadline())
        unwrapped = 0 if file is body else UNWRAP_COPIES * len(body) / (image.width * image.height)
        header = Header(
            image.format or "",
            image.width,
            image.height,
            image.mode,
            orientation(image),
            _held_bytes(image, body) + unwrapped,
            image.format in {"WEBP", "HEIF"} or png.read_header(body) is not None,
            _scales(image, body),
        )
    check_pixels(header.width, header.height, max_pixels)
    return header


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Check the number of pixels.

    Raises: ImageTooLarge.
    """
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} pixels; at most {max_pixels:,} are served. Send a "
            "smaller copy.",
            pixels=width * height,
            limit_pixels=max_pixels,
        )


def orientation(image: Image) -> int:
    """Return the EXIF orientation 1 to 8; 1 if it is missing or not readable."""
    if not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # Pillow would decode a whole PNG to look for EXIF
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except (LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1
    return value if value in UPRIGHT else 1


def _held_bytes(image: ImageFile, body: bytes) -> float:
    """Return the bytes per pixel that the decoder holds beside *image* (docs/memory.md)."""
    match image.format:
        case "WEBP":
            return webp.frame(body, image.size).held_bytes
        case "HEIF":
            return heif.held_bytes(body, image.size, image.mode[-1] in "Aa")
        case "AVIF":
            return avif.held_bytes(body, image.size, len(image.getbands()))
        case "JPEG2000":
            return jpeg2000.held_bytes(body, image.size)
        case "TIFF":
            return tiff.held_bytes(image)
    return 2 * jpeg.coefficients(image, body)


def _scales(image: ImageFile, body: bytes) -> tuple[int, ...]:
    if image.format == "JPEG2000":
        return jpeg2000.scales(body, image.size)
    return jpeg.SCALES if image.format == "JPEG" else ()
