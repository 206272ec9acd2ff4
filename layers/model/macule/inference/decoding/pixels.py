"""Decoding of an image file, or conversion of a Pillow image, to one model input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple, cast

from macule.errors import BadImage
from macule.inference.decoding import colour, formats, icc
from macule.inference.decoding.formats import heif, jpeg, jpeg2000, png, webp
from macule.inference.decoding.header import TRANSPOSED, UPRIGHT, check_pixels, orientation

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

    # rows per strip, first row, end row -> pictures
    Strips = Callable[[int, int, int], Iterator[Image]]
    Box = tuple[int, int, int, int]  # left, top, right, bottom

SidePx = int | tuple[int, int]  # the side of a square, or height and width
STRIP_PIXELS = 2**18  # 1 MB at Pillow's 4 bytes per pixel
READ_STRIP_PIXELS = 2**16  # for strips read from the file, of which there are more copies
# Of a truncated picture. The decoded rows alone change as many decisions as saving it again does;
# with the missing part in gray, as viewers show it, 16 % change at 0.95 and 83 % at 0.8.
MIN_SHARE = 0.8


class Decoded(NamedTuple):
    """One model input and facts about its decoding.

    `picture`: RGB, in sRGB, of the size of the input. `share`: part of the picture in the file,
    below 1 for a truncated JPEG. `ignored`: why its colour profile was not applied, or "".
    """

    picture: Image
    share: float = 1.0
    ignored: str = ""

    @property
    def warnings(self) -> list[str]:
        """Warnings about the picture for the answer."""
        if self.share == 1:
            return []
        return [
            f"The file is cut off: about {self.share:.0%} of the picture is there, and the answer "
            "is about that. Send the file again."
        ]


def decode(body: bytes, side_px: SidePx, resize: str, timeout_s: float = inf) -> Decoded:
    """Decode *body* into one model input.

    Args:
      resize: "squash" (the whole image, aspect ratio ignored), "crop" (the largest centred part of
        the input's aspect ratio) or "pad" (the whole image in its aspect ratio, with black bars).
    Returns: upright pixels in sRGB; transparency is composed over white.
    Raises: UnsupportedImage, BadImage, SlowImage, CannotFit.
    Source: side and resize come from the card; `runtime` scales to the network's range.
    """
    frame, deadline = sides(side_px), formats.Deadline(timeout_s)
    with formats.decoder_errors():
        body = formats.unwrap(body)
        image = formats.open_image(body, deadline)
        found = colour.find_profile(image, body)
        picture, strips, share = _load(image, body, max(frame), deadline)
        fitted, ignored = _fit(picture, frame, resize, orientation(image), found, strips, deadline)
        return Decoded(fitted, share, ignored)


def fit(picture: Image, side_px: SidePx, resize: str) -> Decoded:
    """Convert a Pillow image to one model input, as `decode` does with a file.

    Raises: BadImage if the image is lazy and cannot be loaded; CannotFit.
    """
    with formats.decoder_errors():
        picture.load()
        turn, found = orientation(picture), colour.find_profile(picture, b"")
        frame, deadline = sides(side_px), formats.Deadline()
        fitted, ignored = _fit(picture, frame, resize, turn, found, None, deadline)
        return Decoded(fitted, 1.0, ignored)


def measure(picture: Image, max_pixels: int) -> tuple[int, int]:
    """Return width and height in pixels of an upright Pillow image.

    Raises: ImageTooLarge.
    """
    check_pixels(picture.width, picture.height, max_pixels)
    turned = orientation(picture) in TRANSPOSED
    return (picture.height, picture.width) if turned else picture.size


def sides(side_px: SidePx) -> tuple[int, int]:
    """Return height and width in pixels for a card's `side_px`."""
    return side_px if isinstance(side_px, tuple) else (side_px, side_px)


def _load(
    image: ImageFile, body: bytes, side_px: int, deadline: formats.Deadline
) -> tuple[Image, Strips | None, float]:
    """Decode, at a reduced scale for *side_px* if the format supports it.

    Returns: the picture, or an undecoded one with a reader of its strips; and its share.
    """
    by = max(1, min(image.size) // side_px)
    match image.format:
        case "PNG" if png.read_header(body):
            return image, partial(png.strips, body, image), 1.0
        case "HEIF":
            return image, partial(heif.strips, body, image.size), 1.0
        case "WEBP":
            by = max(1, by // 2)
            size = -(-image.width // by), -(-image.height // by)
            return webp.decode(body, image.size, size, deadline.check), None, 1.0
        case "JPEG":
            image.draft(None, (side_px, side_px))  # shrinks by 2, 4 or 8 in the DCT
            picture, share = _jpeg(image, body)
            return picture, None, share
        case "JPEG2000":
            scales = jpeg2000.scales(body, image.size)
            halvings = next((scale for scale in scales if scale <= by), 1).bit_length() - 1
            setattr(image, "reduce", halvings)  # noqa: B010
    image.load()
    return image, None, 1.0


def _jpeg(image: ImageFile, body: bytes) -> tuple[Image, float]:
    """Load a JPEG; of a truncated one the complete rows, and their share.

    Raises: BadImage if the share is too small.
    """
    source = cast(formats.Source, image.fp)
    multi_scan = jpeg.coefficients(image, body) > 0
    start, share = source.tell(), 1.0

    def end() -> bytes:
        nonlocal share
        share = (
            jpeg.complete_scans_share(image, body, start)
            if multi_scan
            else jpeg.decoded_rows_share(image)
        )
        if share < MIN_SHARE:
            part = f"about {share:.0%}" if share >= 0.01 else "almost nothing"
            raise BadImage(f"The file is cut off: {part} of the picture arrived. Send it again.")
        source.at_end = None
        return jpeg.END

    source.at_end = end
    try:
        image.load()
    finally:
        source.at_end = None  # breaks the reference cycle with the image
    if share == 1 or multi_scan:
        return image, share
    return image.crop((0, 0, image.width, round(image.height * share))), share


def _fit(
    image: Image,
    side_px: tuple[int, int],
    resize: str,
    turn: int,
    found: icc.Colour,
    strips: Strips | None,
    deadline: formats.Deadline,
) -> tuple[Image, str]:
    """Shrink, convert to sRGB, pad and rotate."""
    from PIL.Image import Resampling, Transpose, new

    height, width = side_px
    frame = (height, width) if turn in TRANSPOSED else (width, height)
    target = _scaled_to_fit(image.size, frame) if resize == "pad" else frame
    box = _centre(image.size, frame) if resize == "crop" else (0, 0, *image.size)
    small, scale = _shrink(image, box, target, found.profile, strips, deadline)
    fitted, ignored = small.resize(target, Resampling.BILINEAR, (0.0, 0.0, *scale)), found.ignored
    if found.profile:
        fitted, ignored = icc.to_srgb(fitted, found.profile)
    if target != frame:
        padded = new("RGB", frame)
        padded.paste(fitted, ((frame[0] - target[0]) // 2, (frame[1] - target[1]) // 2))
        fitted = padded
    upright = fitted.transpose(Transpose[UPRIGHT[turn]]) if turn in UPRIGHT else fitted
    return upright, ignored


def _centre(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """Return the largest centred box of *shape* in *size*."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _scaled_to_fit(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size with the aspect ratio of *size* that fits into *frame*."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrink(
    image: Image,
    box: Box,
    target: tuple[int, int],
    profile: bytes,
    strips: Strips | None,
    deadline: formats.Deadline,
) -> tuple[Image, tuple[float, float]]:
    """Reduce *box* of *image* to between two and four times *target*, strip by strip.

    Converting strip by strip limits the peak to one image in its own mode; with *strips* not even
    that image is held.
    Returns: RGB, or CMYK with a CMYK profile; and the width and height in it that *box* covers.
    """
    from PIL.Image import new

    left, top, right, bottom = box
    by_x = max(1, (right - left) // (2 * target[0]))
    by_y = max(1, (bottom - top) // (2 * target[1]))
    plain = partial(colour.to_rgb, peak=colour.white_level(image), profile=profile)
    if by_x == by_y == 1 and not strips:
        whole = box == (0, 0, *image.size)
        return plain(image if whole else image.crop(box)), (right - left, bottom - top)
    mode = "CMYK" if profile[16:20] == b"CMYK" else "RGB"
    small = new(mode, (-(-(right - left) // by_x), -(-(bottom - top) // by_y)))
    strip_pixels = READ_STRIP_PIXELS if strips else STRIP_PIXELS
    rows = by_y * max(1, strip_pixels // ((right - left) * by_y))
    y = 0
    for strip in _strips(image, box, rows, strips):
        deadline.check()
        reduced = plain(strip).reduce((by_x, by_y))
        small.paste(reduced, (0, y))
        y += reduced.height
    return small, ((right - left) / by_x, (bottom - top) / by_y)


def _strips(image: Image, box: Box, rows: int, strips: Strips | None) -> Iterator[Image]:
    """Yield *box* of *image*, or of what *strips* reads, *rows* rows at a time."""
    left, top, right, bottom = box
    if strips:
        for strip in strips(rows, top, bottom):
            yield strip.crop((left, 0, right, strip.height))
        return
    for y in range(top, bottom, rows):
        yield image.crop((left, y, right, min(y + rows, bottom)))
