"""Decoding within limits."""

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from macule.errors import BadImage, ImageTooLarge, SlowImage, UnsupportedImage
from macule.inference import decoding
from macule.inference.decoding.header import ORIENTATION_TAG
from PIL import Image
from support.images import photo, pixels_of, saved, skin

SIDE = 64
ANY = 10**9


def decode(body: bytes, resize: str = "squash") -> np.ndarray:
    return pixels_of(decoding.decode(body, SIDE, resize))


def close(one: np.ndarray, other: np.ndarray, mean: float = 2.0) -> bool:
    return float(np.abs(one.astype(int) - other.astype(int)).mean()) <= mean


def brightness(pixels: np.ndarray) -> float:
    return float(np.asarray(Image.fromarray(pixels[0]).convert("L")).mean())


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return decode(saved(skin(), "PNG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_gives_the_same_picture(kind: str, expected: np.ndarray) -> None:
    """A picture decodes alike from every format, except for lossy compression."""
    pixels = decode(saved(skin(), kind))

    assert (pixels.shape, pixels.dtype) == ((1, SIDE, SIDE, 3), np.uint8)
    assert close(pixels, expected, 6 if kind == "GIF" else 2)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, expected: np.ndarray) -> None:
    """Gray, palette, alpha, CMYK and 16-bit images keep their brightness."""
    if mode == "I;16":
        drawn = Image.fromarray(np.asarray(skin().convert("L")).astype(np.uint16) * 257)
    else:
        drawn = skin().convert("L").convert(mode) if mode in {"1", "LA"} else skin().convert(mode)
    pixels = decode(saved(drawn, "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"))

    assert abs(brightness(pixels) - brightness(expected)) < 3


def test_transparency_becomes_white() -> None:
    """Transparent pixels are white, in RGBA and in a palette."""
    clear = Image.new("RGBA", (400, 300), (0, 0, 0, 0))
    palette = Image.new("P", (400, 300), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])

    assert decode(saved(clear, "PNG")).min() == 255
    assert decode(saved(palette, "PNG", transparency=0)).min() == 255


def test_a_cmyk_jpeg_is_not_inverted(expected: np.ndarray) -> None:
    """Adobe's inverted CMYK has the correct brightness."""
    assert close(decode(saved(skin().convert("CMYK"), "JPEG", quality=95)), expected, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str, expected: np.ndarray) -> None:
    """All eight EXIF orientations of a photo give the same picture."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    drawn = skin() if orientation == 1 else skin().transpose(undo[orientation])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    body = saved(drawn, kind, exif=exif)

    assert close(decode(body), expected, 4)
    assert decoding.inspect(body, ANY).upright_size == (640, 480)


def test_a_crop_is_the_centre_square() -> None:
    """With resize crop the sides of a wide photo are cut off, not squashed."""
    wide = Image.new("RGB", (900, 300), "red")
    wide.paste("blue", (300, 0, 600, 300))

    assert (decode(saved(wide, "PNG"), "crop")[0] == (0, 0, 255)).all()
    assert (decode(saved(wide, "PNG"), "squash")[0, :, 0] == (255, 0, 0)).all()


def test_padding_keeps_shape_and_content() -> None:
    """With resize pad a wide photo is complete, between black bars."""
    pixels = decode(saved(Image.new("RGB", (400, 200), "red"), "PNG"), "pad")[0]

    assert (pixels[:16] == 0).all()
    assert (pixels[16:48] == (255, 0, 0)).all()
    assert (pixels[48:] == 0).all()


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_input_need_not_be_square(resize: str, orientation: int) -> None:
    """A network of 48 x 96 gets a complete photo of its shape, in either orientation."""
    drawn = skin(960, 480)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    held = drawn if orientation == 1 else drawn.transpose(Image.Transpose.ROTATE_90)
    pixels = pixels_of(decoding.decode(saved(held, "PNG", exif=exif), (48, 96), resize))

    assert pixels.shape == (1, 48, 96, 3)
    assert close(pixels, np.asarray(drawn.resize((96, 48), Image.Resampling.BOX))[None])


def test_only_the_first_frame_of_an_animation_is_used() -> None:
    """A GIF of two frames decodes as its first."""
    body = saved(
        Image.new("RGB", (50, 50), "red"),
        "GIF",
        save_all=True,
        append_images=[Image.new("RGB", (50, 50), "blue")],
    )

    assert (decode(body)[0] == (255, 0, 0)).all()


def test_strips_are_not_visible() -> None:
    """A picture reduced in strips equals one reduced at once, up to rounding."""
    drawn = skin(2999, 1777)
    whole = drawn.resize((SIDE, SIDE), Image.Resampling.BOX)

    assert close(decode(saved(drawn, "PNG")), np.asarray(whole)[None], 2.5)


def test_pixels_are_counted_before_decoding() -> None:
    """A PNG that claims 65,000 x 65,000 pixels is rejected by its header, with the figures."""
    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    body = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"

    with pytest.raises(ImageTooLarge) as caught:
        decoding.inspect(body, 120_000_000)

    assert caught.value.figures == {"pixels": 65000 * 65000, "limit_pixels": 120_000_000}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"hello, I am no image", UnsupportedImage),
        (b"<html></html>", UnsupportedImage),
        (b"", UnsupportedImage),
        (b"\xff\xd8\xff", BadImage),
        (b"BMW is a car", BadImage),
        (b"II*\0\xff\xff\xff\xff", BadImage),
        (b"RIFF\0\0\0\0WEBPVP8 ", BadImage),
        (photo()[:2000], BadImage),
        (saved(skin(), "PNG")[:2000], BadImage),
    ],
)
def test_undecodable_files_are_distinguished(body: bytes, error: type[Exception]) -> None:
    """Unknown formats are unsupported; damaged files of a known format are bad."""
    with pytest.raises(error):
        decode(body)


def test_a_jpeg_of_several_scans_is_recognised_by_its_header() -> None:
    """Progressive JPEGs need memory for coefficients, baseline ones do not."""
    held = {
        (progressive, subsampling): decoding.inspect(
            photo(progressive=progressive, subsampling=subsampling), ANY
        ).held_bytes
        for progressive in (False, True)
        for subsampling in (0, 2)
    }

    assert held == {(False, 0): 0, (False, 2): 0, (True, 0): 6, (True, 2): 3}


@pytest.mark.memory
def test_a_12_megapixel_photo_adds_at_most_8_mb() -> None:
    """Decoding a 4032 x 3024 JPEG raises the peak of a warm process by at most 8 MB."""
    script = """
import sys; from macule.inference import decoding
from macule.inference.decoding.header import ORIENTATION_TAG
def kilobytes(key): return next(int(l.split()[1]) for l in open('/proc/self/status') if key in l)
decoding.decode(open(sys.argv[1], 'rb').read(), 224, 'squash')
open('/proc/self/clear_refs', 'w').write('5'); before = kilobytes('VmRSS')
body = open(sys.argv[2], 'rb').read()
decoding.inspect(body, 10**9); decoding.decode(body, 224, 'squash')
print((kilobytes('VmHWM') - before) / 1024)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        small, large = f"{folder}/small.jpg", f"{folder}/large.jpg"
        for path, body in ((small, photo()), (large, photo(4032, 3024))):
            with open(path, "wb") as file:
                file.write(body)
        added_mb = float(subprocess.check_output([sys.executable, "-c", script, small, large]))

    assert added_mb <= 8


def test_decoding_is_bounded_in_time() -> None:
    """A progressive JPEG with thousands of scans ends at the deadline."""
    body = saved(Image.new("RGB", (2400, 1800), "tan"), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    bomb = body[:last] + body[last:-2] * 20_000 + body[-2:]

    began = time.monotonic()
    with pytest.raises(SlowImage, match=r"longer than 0\.5 s"):
        decoding.decode(bomb, SIDE, "squash", 0.5)

    assert time.monotonic() - began < 5


def heic(width: int, height: int) -> bytes:
    """Return an iPhone's file of drawn skin; saving it is slow, so keep it small."""
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(skin(width, height)).save(file, quality=90)
    return file.getvalue()


def test_heic_is_decoded() -> None:
    """A HEIC photo is decoded, and estimated by its planes and RGB rows."""
    body = heic(320, 200)
    header = decoding.inspect(body, ANY)

    assert (header.format, header.width, header.height) == ("HEIF", 320, 200)
    assert header.held_bytes > 4
    assert close(decode(body), decode(saved(skin(320, 200), "PNG")), 4.0)


@pytest.mark.parametrize("cut", [40, 400, 2000])
def test_a_damaged_heic_is_bad(cut: int) -> None:
    """A truncated HEIC file is rejected as damaged."""
    with pytest.raises(BadImage):
        decode(heic(320, 200)[:cut])


def test_heic_is_rejected_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pi-heif the error says how an iPhone sends JPEG."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)

    with pytest.raises(UnsupportedImage, match="Most Compatible"):
        decoding.inspect(b"\0\0\0\x1cftypheic" + bytes(40), ANY)
