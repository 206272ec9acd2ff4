"""Bytes to tensor: one decoder for conversion, evaluation and serving; pure."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from macule import png, tiff
from macule.errors import BadImage, CannotFit, ImageTooLarge, SlowImage, UnsupportedImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

SERVED = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# First bytes -> Pillow plugin. Opening by plugin class leaves Pillow's other forty unloaded.
PLUGINS = {
    b"\xff\xd8\xff": "Jpeg",
    b"\x89PNG\r\n\x1a\n": "Png",
    b"GIF8": "Gif",
    b"BM": "Bmp",
    b"II*\0": "Tiff",
    b"MM\0*": "Tiff",
    b"II+\0": "Tiff",
    b"MM\0+": "Tiff",
}
# Pillow imports these when it meets a GIF, a colour's name, a palette or EXIF.
NEEDED = ("copy", "PIL.ImageColor", "PIL.ImagePalette", "PIL.TiffImagePlugin")
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}
ORIENTATION_TAG = 0x0112
HEIC_HELD_BYTES = 4.5  # libheif: the planes, and the copy that Pillow gets
WEBP_HELD_BYTES = 13.0  # libwebp: two RGBA canvases, one copy out
STRIP_PIXELS = 2**18  # 1 MB at Pillow's 4 bytes a pixel
READ_BYTES = 2**16
# A piece of a JPEG of several scans can hold hundreds of them, each of the whole image: it is cut
# small, so that the clock is looked at between them. For all it would cost a tenth of the rate.
SCAN_BYTES = 2**12
PNG_STRIP_PIXELS = 2**16  # of these there are more copies
MAX_PNG_TEXT_BYTES = 2**20  # Pillow's own bound is 64 MB of inflated comments
# EXIF orientation -> the name of Pillow's transpose that sets the image upright.
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
TURNED = (5, 6, 7, 8)  # these swap width and height


class Header(NamedTuple):
    """What the first bytes tell: size in pixels before turning, Pillow's mode, EXIF orientation.

    `held_bytes` is what the decoder holds a pixel, beside the image itself: 0 for a JPEG that is
    decoded row by row, 3 for a progressive one in 4:2:0. `stripped`: a PNG decoded strip by strip,
    of which there is never a whole image.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    held_bytes: float
    stripped: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels as a viewer shows it."""
        turned = self.orientation in TURNED
        return (self.height, self.width) if turned else (self.width, self.height)


def inspect(body: bytes, max_pixels: int) -> Header:
    """Read the header of *body*; no pixel is decoded.

    Raises: UnsupportedImage, BadImage, ImageTooLarge.
    """
    with _pillow():
        image = _open(body, _Deadline(inf))
        header = Header(
            image.format or "",
            image.width,
            image.height,
            image.mode,
            _orientation(image),
            _held_bytes(image, body),
            png.form(body) is not None,
        )
    _bounded(header.width, header.height, max_pixels)
    return header


def _bounded(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} pixels; at most {max_pixels:,} are served. Send a "
            "smaller copy.",
            pixels=width * height,
            limit_pixels=max_pixels,
        )


def decode(
    body: bytes, side_px: int | tuple[int, int], resize: str, timeout_s: float = inf
) -> NDArray[np.uint8]:
    """Decode *body* into one model input.

    *side_px* is the side of a square, or (height, width). *resize* is "squash" (the whole image,
    its shape given up), "crop" (the largest centred part of the input's shape) or "pad" (the whole
    image in its own shape, black beside it).
    Returns: shape (1, height, width, 3), uint8, RGB, upright; transparency lies over white.
    Raises: UnsupportedImage, BadImage, SlowImage, CannotFit.
    Source: side and resize come from the card; scaling to the network's range is in `model`.
    """
    height, width = sides(side_px)
    deadline = _Deadline(timeout_s)
    with _pillow():
        image = _open(body, deadline)
        # JPEG alone heeds it, and shrinks by 2, 4 or 8 in the DCT.
        image.draft(None, (max(height, width),) * 2)
        stripped = png.form(body) is not None
        if not stripped:
            image.load()
        return _fitted(image, (height, width), resize, body if stripped else b"", deadline)


def measure(picture: Image, max_pixels: int) -> tuple[int, int]:
    """Return width and height in pixels of a picture that Pillow holds, as a viewer shows it.

    Raises: ImageTooLarge.
    """
    _bounded(picture.width, picture.height, max_pixels)
    turned = _orientation(picture) in TURNED
    return (picture.height, picture.width) if turned else picture.size


def fit(picture: Image, side_px: int | tuple[int, int], resize: str) -> NDArray[np.uint8]:
    """Bring a picture that Pillow holds into one model input, as `decode` does with a file.

    Raises: BadImage, where it has not been loaded yet and cannot be; CannotFit.
    """
    with _pillow():
        picture.load()
        return _fitted(picture, sides(side_px), resize, b"", _Deadline(inf))


def _fitted(
    image: Image, side_px: tuple[int, int], resize: str, body: bytes, deadline: _Deadline
) -> NDArray[np.uint8]:
    """Shrink, pad and turn; *body* is the file of a PNG that is not loaded, else empty."""
    import numpy as np
    from PIL.Image import Resampling, Transpose, new

    height, width = side_px
    orientation = _orientation(image)
    frame = (height, width) if orientation in TURNED else (width, height)
    target = _within(image.size, frame) if resize == "pad" else frame
    box = _centre(image.size, frame) if resize == "crop" else (0, 0, *image.size)
    small, scale = _shrink(image, box, target, body, deadline)
    fitted = small.resize(target, Resampling.BILINEAR, (0.0, 0.0, *scale))
    if target != frame:
        padded = new("RGB", frame)
        padded.paste(fitted, ((frame[0] - target[0]) // 2, (frame[1] - target[1]) // 2))
        fitted = padded
    turn = UPRIGHT.get(orientation)
    upright = fitted if turn is None else fitted.transpose(Transpose[turn])
    return np.asarray(upright)[None]


def sides(side_px: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width in pixels of a card's side."""
    return side_px if isinstance(side_px, tuple) else (side_px, side_px)


def slow(timeout_s: float) -> SlowImage:
    """Make the failure of an image that is not decoded within *timeout_s*."""
    return SlowImage(
        f"Decoding took longer than {timeout_s:g} s. Save the image again as a baseline JPEG.",
        timeout_s=timeout_s,
    )


class _Deadline:
    """A moment after which `check` raises SlowImage."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = monotonic() + timeout_s

    def check(self) -> None:
        if monotonic() > self._end:
            raise slow(self._timeout_s)


class _Timed(BytesIO):
    """A file that stops being read at a deadline: Pillow reads and decodes piece by piece."""

    def __init__(self, body: bytes, deadline: _Deadline) -> None:
        super().__init__(body)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        self._deadline.check()
        return super().read(size)


def prepare(body: bytes) -> None:
    """Import all but numpy that `inspect` and `decode` need for *body*: then they open no file.

    Raises: UnsupportedImage.
    """
    _plugin(body)
    for name in NEEDED:
        import_module(name)


def _plugin(body: bytes) -> type[ImageFile]:
    """Import the one plugin that the first bytes name.

    Raises: UnsupportedImage.
    """
    name = next((PLUGINS[magic] for magic in PLUGINS if body.startswith(magic)), None)
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        name = "WebP"
    if body[4:8] == b"ftyp" and body[8:12] in HEIC_BRANDS:
        return _heic_plugin()
    if name is None:
        raise UnsupportedImage(f"The bytes are not {SERVED}. Send one of these.")
    module = import_module(f"PIL.{name}ImagePlugin")
    if name == "Png":
        vars(module)["MAX_TEXT_MEMORY"] = MAX_PNG_TEXT_BYTES
    plugin: type[ImageFile] = getattr(module, f"{name}ImageFile")
    return plugin


def _heic_plugin() -> type[ImageFile]:
    """Import pillow-heif, which reads an iPhone's photos, where that is installed."""
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise UnsupportedImage(
            "HEIC photos are not served here. Send a JPEG: on an iPhone, Settings, Camera, Formats,"
            " Most Compatible; or share the photo instead of uploading its file."
        ) from error
    return HeifImageFile


def _open(body: bytes, deadline: _Deadline) -> ImageFile:
    """Open with the one plugin that the first bytes name."""
    image = _plugin(body)(_Timed(body, deadline))
    if image.format == "HEIF":
        return image
    image.decodermaxblock = SCAN_BYTES if _coefficients(image, body) else READ_BYTES
    if image.format == "PNG" and "exif" not in image.info and (late := png.exif(body)):
        image.info["exif"] = late
    return image


@contextmanager
def _pillow() -> Iterator[None]:
    """Turn what Pillow raises at a bad file into BadImage; its warnings are no news."""
    from PIL.Image import DecompressionBombError

    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    except MemoryError as error:
        raise CannotFit("There is not enough memory to decode this image.") from error
    except PermissionError:  # no image's fault: something opens files where none may be opened
        raise
    except (
        # Found by feeding broken files to every plugin: a parser in Python fails in many ways.
        ArithmeticError,
        AttributeError,
        DecompressionBombError,
        LookupError,
        NotImplementedError,
        OSError,
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


def _orientation(image: Image) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    if not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # asking a PNG for EXIF that it lacks would decode all of it
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except (LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1
    return value if value in UPRIGHT else 1


def _held_bytes(image: ImageFile, body: bytes) -> float:
    """Return the bytes a pixel that the decoder of *image* holds beside it (docs/memory.md)."""
    if image.format == "WEBP":
        return WEBP_HELD_BYTES
    if image.format == "HEIF":
        return HEIC_HELD_BYTES
    if image.format == "TIFF":
        return tiff.held_bytes(image)
    return 2 * _coefficients(image, body)


def _coefficients(image: ImageFile, body: bytes) -> float:
    """Return the coefficients a pixel that a JPEG of several scans makes libjpeg hold."""
    layers: list[tuple[int, int, int, int]] = getattr(image, "layer", [])
    if not layers:
        return 0.0
    if not image.info.get("progressive") and _scanned_at_once(image, body, len(layers)):
        return 0.0
    widest = max(h * v for _, h, v, _ in layers)
    return sum(h * v / widest for _, h, v, _ in layers)


def _scanned_at_once(image: ImageFile, body: bytes, components: int) -> bool:
    """Say whether the first scan, which Pillow has just read past, holds all components."""
    end = image.fp.tell() if image.fp else 0
    size = 6 + 2 * components
    return body[end - size : end - size + 3] == struct.pack(">HB", size, components)


def _centre(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centred box of *shape* in *size*, as left, top, right, bottom."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _within(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Scale *size* so that it just fits into *frame*."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrink(
    image: Image,
    box: tuple[int, int, int, int],
    target: tuple[int, int],
    body: bytes,
    deadline: _Deadline,
) -> tuple[Image, tuple[float, float]]:
    """Reduce *box* of *image* to between two and four times *target*, strip by strip.

    Converting to RGB strip by strip keeps the peak at one image in its own mode. With *body*, the
    file of a PNG that is not loaded, there is no whole image either.
    Returns: the RGB image, and the width and height in it that *box* covers.
    """
    from PIL.Image import new

    left, top, right, bottom = box
    by_x = max(1, (right - left) // (2 * target[0]))
    by_y = max(1, (bottom - top) // (2 * target[1]))
    peak = _peak(image)
    whole = box == (0, 0, *image.size)
    if by_x == by_y == 1 and not body:
        return _rgb(image if whole else image.crop(box), peak), (right - left, bottom - top)
    small = new("RGB", (-(-(right - left) // by_x), -(-(bottom - top) // by_y)))
    strip_pixels = PNG_STRIP_PIXELS if body else STRIP_PIXELS
    rows = by_y * max(1, strip_pixels // ((right - left) * by_y))
    y = 0
    for strip in _strips(image, box, rows, body):
        deadline.check()
        reduced = _rgb(strip, peak).reduce((by_x, by_y))
        small.paste(reduced, (0, y))
        y += reduced.height
    return small, ((right - left) / by_x, (bottom - top) / by_y)


def _strips(
    image: Image, box: tuple[int, int, int, int], rows: int, body: bytes
) -> Iterator[Image]:
    """Yield *box* of *image*, or of the PNG in *body*, *rows* rows at a time."""
    left, top, right, bottom = box
    if not body:
        for y in range(top, bottom, rows):
            yield image.crop((left, y, right, min(y + rows, bottom)))
        return
    for strip in png.strips(body, rows, top, bottom, image):
        yield strip.crop((left, 0, right, strip.height))


def _peak(image: Image) -> float:
    """Return the value that means white in an image of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in {"I", "F"}:
        return 255.0
    extrema = image.getextrema()
    highest = extrema[1] if isinstance(extrema[1], int | float) else 255.0
    return next((white for white in (1.0, 255.0, 65535.0) if highest <= white), highest)


def _rgb(image: Image, peak: float) -> Image:
    """Convert any mode to RGB; transparency over white, *peak* to 255."""
    import numpy as np
    from PIL.Image import fromarray, new

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        levels = np.asarray(image, np.float32) * (255.0 / peak)
        return fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = new("RGB", image.size, "white")
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    return image.convert("RGB")
