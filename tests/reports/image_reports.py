"""Public reports of images that failed elsewhere: the file, and the correct result.

Each names its thread on GitHub: owner/repository#number.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from macule.errors import BadImage, ImageTooLarge, Macule, UnsupportedImage
from macule.inference.decoding.formats import png
from macule.inference.decoding.header import ORIENTATION_TAG
from PIL import Image
from support import tiff_files
from support.colour_images import PROFILES, into
from support.images import photo, saved, skin

SKIN = "the drawn skin"
WHITE = "white"


class Report(NamedTuple):
    """One thread: its file, drawn again, and SKIN, WHITE or the expected error.

    `expected` is a part of the error's text or of a warning.
    """

    source: str
    happened: str
    body: Callable[[], bytes]
    right: str | type[Macule] = SKIN
    expected: str = ""


def profiled(space: str, kind: str, **options: Any) -> bytes:
    return saved(into(skin(), PROFILES[space]), kind, icc_profile=PROFILES[space], **options)


def turned(orientation: int, by: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return saved(skin().transpose(by), "JPEG", quality=90, exif=exif)


def gray_16(kind: str) -> bytes:
    levels = np.asarray(skin().convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(levels), kind)


def heic() -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(skin()).save(file, quality=90)
    return file.getvalue()


def chunked(kind: bytes, content: bytes) -> bytes:
    body = saved(skin(), "PNG")
    return body[:33] + png.chunk(kind, content) + body[33:]


def bomb() -> bytes:
    header = png.chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    return png.SIGNATURE + header + png.chunk(b"IDAT", zlib.compress(bytes(9999)))


def several(kind: str, **options: Any) -> bytes:
    others = [Image.new("RGB", (640, 480), "red")]
    return saved(skin(), kind, save_all=True, append_images=others, **options)


def half() -> bytes:
    body = photo()
    start = body.index(b"\xff\xda")
    return body[: start + (len(body) - start) // 2]


def coarse() -> bytes:
    body = photo(progressive=True)
    return body[: body.rindex(b"\xff\xda") + 40]


def without_adobes_marker() -> bytes:
    body = saved(skin().convert("CMYK"), "JPEG", quality=95)
    place = body.index(b"\xff\xee")
    (size,) = struct.unpack_from(">H", body, place + 2)
    return body[:place] + body[place + 2 + size :]


def clear_palette() -> bytes:
    picture = Image.new("P", (300, 200), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    return saved(picture, "PNG", transparency=0)


def tiled() -> bytes:
    rows = np.zeros((640, 640, 3), np.uint8)
    rows[:480] = np.asarray(skin())
    return tiff_files.in_a_tile(640, 480, 640, zlib.compress(rows.tobytes()))


def with_exif(block: bytes) -> bytes:
    return saved(skin(), "JPEG", quality=90, exif=b"Exif\0\0" + block)


AVIS = b"\0\0\0\x2cftypavis\0\0\0\0avisavifmsf1iso8mif1miafMA1B" + bytes(400)
HUGE_PROFILE = b"ICC Profile\0\0" + zlib.compress(bytes(2**21))
REPORTS = [
    Report(
        "photoprism/photoprism#1798",
        "thumbnails of Display P3 photos are pale",
        lambda: profiled("Display P3", "JPEG", quality=95),
    ),
    Report(
        "photoprism/photoprism#1474",
        "thumbnails of Adobe RGB photos lose their profile",
        lambda: profiled("Adobe RGB", "JPEG", quality=95),
    ),
    Report(
        "ShareX/ShareX#7739",
        "a pinned picture of an iPhone drops its profile",
        lambda: profiled("Display P3", "PNG"),
    ),
    Report(
        "siiptuo/pio#15",
        "an optimized picture is less saturated",
        lambda: profiled("Display P3", "WEBP", quality=95),
    ),
    Report("python-pillow/Pillow#889", "4 bytes are missing: refused", lambda: photo()[:-4]),
    Report(
        "python-pillow/Pillow#2038",
        "the refusal does not say how much is there",
        half,
        BadImage,
        "% of the picture",
    ),
    Report("python-pillow/Pillow#2717", "a progressive file that was cut is black", coarse),
    Report("python-pillow/Pillow#4414", "shown everywhere, refused here", lambda: photo()[:-2]),
    Report(
        "python-pillow/Pillow#1960",
        "a thumbnail behind the picture is taken for a part of it",
        lambda: photo() + saved(skin(64, 48), "JPEG"),
    ),
    Report(
        "gradio-app/gradio#2287",
        "photos of a phone are classified lying on their side",
        lambda: turned(6, Image.Transpose.ROTATE_90),
    ),
    Report(
        "gramps-project/gramps-web-api#323",
        "a mirrored orientation is not applied",
        lambda: turned(4, Image.Transpose.FLIP_TOP_BOTTOM),
    ),
    Report("lovell/sharp#1649", "CMYK without Adobe's marker is negative", without_adobes_marker),
    Report(
        "haraldk/TwelveMonkeys#147",
        "CMYK with Adobe's marker is negative",
        lambda: saved(skin().convert("CMYK"), "JPEG", quality=95),
    ),
    Report("monicahq/monica#4914", "a HEIC is no image", heic),
    Report("Esri/data-collection-ios#184", "a HEIC is called .jpg", heic),
    Report("instructure/canvas-lms#1206", "a JPEG is called .heic", photo),
    Report("python-pillow/Pillow#3011", "gray of 16 bits is white", lambda: gray_16("PNG"), "gray"),
    Report(
        "python-pillow/Pillow#1108",
        "gray of 16 bits is clipped in a TIFF",
        lambda: gray_16("TIFF"),
        "gray",
    ),
    Report(
        "1bit-MONSTER/1bit-MONSTER#1296",
        "a small PNG says 20,000 x 20,000: killed for its memory",
        bomb,
        ImageTooLarge,
        "20000 x 20000",
    ),
    Report(
        "KatherLab/STAMP#76",
        "a profile above 1 MB: the PNG is refused",
        lambda: chunked(b"iCCP", HUGE_PROFILE),
    ),
    Report(
        "python-pillow/Pillow#2445",
        "a CMYK profile in an RGB file",
        lambda: saved(skin(), "PNG", icc_profile=PROFILES["Display P3"].replace(b"RGB ", b"CMYK")),
    ),
    Report(
        "python-pillow/Pillow#8363",
        "a text above 1 MB: the PNG is refused",
        lambda: chunked(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))),
    ),
    Report(
        "randy408/libspng#145",
        "a text whose compressed data are damaged",
        lambda: chunked(b"zTXt", b"a\0\0" + b"no zlib" * 9),
    ),
    Report(
        "wagtail/wagtail#729", "a camera's JPEG is called MPO", lambda: several("MPO", quality=95)
    ),
    Report("agschwender/pilbox#34", "MPO is an unknown format", lambda: several("MPO", quality=90)),
    Report("python-pillow/Pillow#4852", "EXIF of no bytes is an error", lambda: with_exif(b"")),
    Report(
        "saimn/sigal#157",
        "EXIF that points beyond its end is an error",
        lambda: with_exif(b"II*\0\x08\0\0\0\x05\0" + b"\xff" * 20),
    ),
    Report(
        "AUTOMATIC1111/stable-diffusion-webui-pixelization#34",
        "what is transparent becomes black",
        lambda: saved(Image.new("RGBA", (300, 200), (0, 0, 0, 0)), "PNG"),
        WHITE,
    ),
    Report("photopea/photopea#2000", "a transparent palette becomes black", clear_palette, WHITE),
    Report(
        "gawen947/imlib2-webp#4",
        "an animated WebP is not shown",
        lambda: several("WEBP", quality=95),
    ),
    Report(
        "image-size/image-size#446",
        "an animated AVIF: undefined",
        lambda: AVIS,
        UnsupportedImage,
        "animated AVIF",
    ),
    Report("python-pillow/Pillow#3206", "a TIFF in tiles of deflate is refused", tiled),
    Report(
        "python-pillow/Pillow#2926",
        "a TIFF with a subsampled JPEG is refused",
        lambda: saved(skin(), "TIFF", compression="jpeg"),
    ),
    Report(
        "loris-imageserver/loris#121",
        "a deflated TIFF is an error of the server",
        lambda: saved(skin(), "TIFF", compression="tiff_adobe_deflate"),
    ),
]
