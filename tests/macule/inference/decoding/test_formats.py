"""Every format of phones and browsers is decoded, or rejected by its name."""

import gc
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from macule.errors import BadImage, UnsupportedImage
from macule.inference import decoding
from macule.inference.decoding import formats
from macule.inference.decoding.formats import png
from PIL import Image
from support import tiff_files
from support.images import photo, pixels_of, saved, skin

ANY = 10**9


def decode(body: bytes) -> decoding.Decoded:
    return decoding.decode(body, 64, "squash")


def close(body: bytes, mean: float = 2.0) -> bool:
    """Return whether this is the drawn skin."""
    expected = pixels_of(decode(saved(skin(), "PNG"))).astype(int)
    return float(np.abs(pixels_of(decode(body)) - expected).mean()) <= mean


def motion_photo() -> bytes:
    """Return a Samsung JPEG with a video behind it, named in its trailer."""
    video = struct.pack(">I8s", 24, b"ftypmp42") + bytes(5000)
    return photo() + b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + video + b"SEFT"


def png_16() -> bytes:
    """Return a PNG of 16 bits a channel, which Pillow does not write."""
    pixels = (np.asarray(skin()).astype(np.uint16) * 257).byteswap()
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 640, 480, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return png.SIGNATURE + b"".join(png.chunk(*each) for each in chunks)


def tiled_tiff() -> bytes:
    """Return a TIFF of one tile, as scanners and microscopes write it."""
    rows = np.zeros((480, 640, 3), np.uint8)
    rows[:] = np.asarray(skin())
    return tiff_files.in_a_tile(
        640, 480, 640, zlib.compress(np.pad(rows, ((0, 160), (0, 0), (0, 0))).tobytes())
    )


def two(kind: str, **options: Any) -> bytes:
    """Return the skin, followed by a red picture."""
    red = Image.new("RGB", (640, 480), "red")
    return saved(skin(), kind, save_all=True, append_images=[red], **options)


READ = {
    "MPO of two pictures": lambda: two("MPO", quality=95),
    "JPEG with a video behind it": motion_photo,
    "JPEG with trailing garbage": lambda: photo() + b"garbage" * 999,
    "JPEG with a picture behind it": lambda: photo() + saved(Image.new("RGB", (9, 9)), "JPEG"),
    "JPEG without an end": lambda: photo()[:-2],
    "APNG": lambda: two("PNG"),
    "animated WebP": lambda: two("WEBP", quality=95),
    "WebP, lossless": lambda: saved(skin(), "WEBP", lossless=True),
    "WebP with alpha": lambda: saved(skin().convert("RGBA"), "WEBP", quality=95),
    "AVIF": lambda: saved(skin(), "AVIF", quality=90),
    "AVIF in 4:4:4": lambda: saved(skin(), "AVIF", quality=90, subsampling="4:4:4"),
    "AVIF with alpha": lambda: saved(skin().convert("RGBA"), "AVIF", quality=90),
    "JPEG 2000": lambda: saved(skin(), "JPEG2000"),
    "JPEG 2000, irreversible": lambda: saved(
        skin(), "JPEG2000", irreversible=True, quality_layers=[10]
    ),
    "JPEG 2000, no wavelet levels": lambda: saved(skin(), "JPEG2000", num_resolutions=1),
    "JPEG 2000 code stream": lambda: saved(skin(), "JPEG2000", no_jp2=True),
    "PNG of 16 bits": png_16,
    "CMYK JPEG": lambda: saved(skin().convert("CMYK"), "JPEG", quality=95),
    "TIFF in tiles of deflate": tiled_tiff,
    "BMP with alpha": lambda: saved(skin().convert("RGBA"), "BMP"),
}


@pytest.mark.parametrize("kind", READ)
def test_common_files_are_read(kind: str) -> None:
    """The first picture of the file is decoded in its own colours."""
    body = READ[kind]()

    assert decoding.inspect(body, ANY).upright_size == (640, 480)
    assert close(body, 12 if kind == "CMYK JPEG" else 2.5)


def icon(picture: bytes, side: int) -> bytes:
    entry = struct.pack("<BBBBHHII", side % 256, side % 256, 0, 0, 1, 32, len(picture), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + picture


def test_an_icon_is_its_largest_picture() -> None:
    """A PNG in an icon is decoded and estimated as that PNG."""
    body = saved(skin(256, 256), "ICO", sizes=[(16, 16), (256, 256)])
    bitmap = saved(skin(64, 64), "ICO", sizes=[(64, 64)], bitmap_format="bmp")
    large = icon(saved(skin(3000, 2000), "PNG"), 256)

    assert decoding.inspect(body, ANY).upright_size == (256, 256)
    assert decoding.inspect(bitmap, ANY).upright_size == (64, 64)
    assert pixels_of(decode(bitmap)).std() > 10
    assert decoding.inspect(large, ANY).format == "PNG"
    assert decoding.inspect(large, ANY).pixels == 6_000_000


def test_an_icon_with_a_large_bitmap_is_bad() -> None:
    """A bitmap in an icon has at most 256 x 256 pixels, whatever its header says."""
    bitmap = struct.pack("<IiiHHIIiiII", 40, 30000, 60000, 1, 32, 0, 0, 0, 0, 0, 0)

    with pytest.raises(BadImage):
        decoding.inspect(icon(bitmap, 256), ANY)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS", "Photoshop"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"\0\0\0\x1cftypavis\0\0\0\0avismif1", "animated AVIF"),
        (b"\x1aE\xdf\xa3", "video"),
        (b"PK\x03\x04", "ZIP"),
        (b"\xef\xbb\xbf<svg xmlns=", "SVG"),
        (b"\n<!doctype html>", "web page"),
        (b'{"image": ""}', "application/json"),
        (b"data:image/jpeg;base64,/9j/", "data: URI"),
        (b"/9j/4AAQSkZJRg==", "base64 of a JPEG"),
        (b"iVBORw0KGgo=", "base64 of a PNG"),
    ],
)
def test_unsupported_formats_are_named(start: bytes, named: str) -> None:
    """The error says what the bytes are, what is supported, and what to do."""
    with pytest.raises(UnsupportedImage) as caught:
        decoding.inspect(start + bytes(80), ANY)

    assert named in str(caught.value)
    assert formats.SUPPORTED in str(caught.value)


def scans(progressive: bool) -> tuple[bytes, int, int]:
    """Return a JPEG, and the offsets of the data of its first and last scan."""
    body = photo(1600, 1200, progressive=progressive)
    first = body.index(b"\xff\xda")
    return body, first, body.rindex(b"\xff\xda")


@pytest.mark.parametrize("lost", [2, 40, 400])
def test_a_jpeg_without_its_last_bytes_is_classified_with_a_warning(lost: int) -> None:
    """The missing end of an upload is reported, and the rest is used."""
    body, _, _ = scans(progressive=False)
    found = decode(body[:-lost])

    assert 0.9 < found.share <= 1
    assert bool(found.warnings) == (found.share < 1)
    assert np.abs(pixels_of(found).astype(int) - pixels_of(decode(body))).mean() < 12


def test_half_a_jpeg_is_rejected_with_its_share() -> None:
    """If too little arrived, the error says how much."""
    body, first, _ = scans(progressive=False)

    with pytest.raises(BadImage, match=r"about (4|5)\d% of the picture"):
        decode(body[: first + (len(body) - first) // 2])


def test_a_progressive_jpeg_without_its_last_scan_is_used() -> None:
    """Without its last scan it has all rows; without the first luminance scans it is rejected."""
    body, first, last = scans(progressive=True)
    coarse = decode(body[: last + 20])

    assert np.abs(pixels_of(coarse).astype(int) - pixels_of(decode(body))).mean() < 4
    second = body.index(b"\xff\xda", first + 2)
    with pytest.raises(BadImage, match="cut off"):
        decode(body[: second + 200])


def test_a_webp_whose_picture_is_larger_than_its_canvas_is_bad() -> None:
    """libwebp allocates for the coded size, so it must match the canvas."""
    body = bytearray(saved(skin(64, 48).convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0"))
    place = body.index(b"VP8L") + 9
    body[place : place + 4] = struct.pack("<I", 16000 | 16000 << 14)

    with pytest.raises(BadImage):
        decoding.inspect(bytes(body), ANY)


def test_a_frame_that_does_not_fill_its_canvas_lies_on_white() -> None:
    """The first frame of an animation may be smaller; the rest of the canvas is white."""
    body = bytearray(two("WEBP", lossless=True))
    assert body[12:16] == b"VP8X"
    body[24:27] = (1279).to_bytes(3, "little")  # the canvas is twice as wide
    pixels = pixels_of(decode(bytes(body)))[0]

    assert (pixels[:, 33:] == 255).all()
    assert pixels[:, :31].mean() < 230


def test_a_jpeg_2000_of_another_size_than_it_says_is_bad() -> None:
    """OpenJPEG allocates for the code stream's size, so the box must have the same."""
    body = bytearray(saved(skin(64, 48), "JPEG2000"))
    place = body.index(b"\xff\x4f\xff\x51") + 8
    body[place : place + 8] = struct.pack(">II", 30000, 30000)

    with pytest.raises(BadImage):
        decoding.inspect(bytes(body), ANY)


@pytest.mark.parametrize("kind", ["JPEG", "cut JPEG", "PNG", "WEBP", "AVIF"])
def test_a_file_is_released_after_decoding(kind: str) -> None:
    """No reference cycle keeps an image until garbage collection."""
    body = photo()[:-200] if kind == "cut JPEG" else saved(skin(), kind)
    gc.collect()
    gc.disable()
    try:
        decode(body)
        left = [each for each in gc.get_objects() if isinstance(each, formats.Source)]
    finally:
        gc.enable()

    assert left == []
