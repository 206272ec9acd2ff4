"""A PNG in strips equals Pillow's result, for every kind of PNG that is read in strips."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from macule.errors import BadImage
from macule.inference import decoding
from macule.inference.decoding.formats import png
from macule.inference.decoding.header import ORIENTATION_TAG
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from support.images import pixels_of, saved, skin

ANY = 10**9


def drawn(mode: str, width: int = 301, height: int = 210) -> Image.Image:
    """Return a picture with noise and ramps, so that PNG uses all its filters."""
    random = np.random.default_rng(4)
    ramps = np.asarray(skin(width, height).convert("RGBA"), np.int16)
    pixels = np.clip(ramps + random.integers(-9, 9, ramps.shape), 0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 251)
    return Image.fromarray(pixels).convert("RGB").convert(mode)


def joined(body: bytes, rows: int) -> Any:
    """Join all strips of a file."""
    like = PngImageFile(io.BytesIO(body))
    return np.concatenate(
        [np.asarray(strip) for strip in png.strips(body, like, rows, 0, like.height)]
    )


@pytest.mark.parametrize("rows", [1, 7, 210, 500])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("1", {}),
        ("L", {}),
        ("LA", {}),
        ("P", {}),
        ("P", {"bits": 4}),
        ("P", {"bits": 2}),
        ("P", {"bits": 1}),
        ("RGB", {}),
        ("RGBA", {}),
        ("I;16", {}),
    ],
)
def test_strips_equal_the_image(mode: str, options: dict[str, Any], rows: int) -> None:
    """For any depth, colour type and strip height, no pixel differs."""
    body = saved(drawn(mode), "PNG", **options)

    np.testing.assert_array_equal(joined(body, rows), np.asarray(Image.open(io.BytesIO(body))))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "I;16"])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_strips_give_the_input_of_the_whole_file(
    mode: str, resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's input differs by one level at most from the file loaded whole."""
    body = saved(drawn(mode, 900, 700), "PNG")
    by_strips = pixels_of(decoding.decode(body, 96, resize))
    monkeypatch.setattr(png, "read_header", lambda _: None)

    whole = pixels_of(decoding.decode(body, 96, resize))

    assert np.abs(by_strips.astype(int) - whole).max() <= 1


def test_transparent_colours_become_white() -> None:
    """A transparent colour of a palette and one of an RGB file are white."""
    for mode in ("P", "RGB"):
        picture = Image.new(mode, (600, 600), 0)
        colour = 0 if mode == "P" else (0, 0, 0)
        body = saved(picture, "PNG", transparency=colour)

        assert decoding.inspect(body, ANY).stripped
        assert (pixels_of(decoding.decode(body, 64, "squash")) == 255).all()


def test_other_pngs_are_loaded_whole() -> None:
    """Interlaced and 16-bit colour files are read by Pillow, and estimated as whole images."""
    body = bytearray(saved(drawn("RGB"), "PNG"))
    body[28] = 1  # its header says interlaced

    assert png.read_header(bytes(body)) is None
    assert png.read_header(b"\x89PNG") is None


@pytest.mark.parametrize("cut", [60, 200, 3000])
def test_a_truncated_file_is_bad(cut: int) -> None:
    """A truncated PNG is rejected, not filled up."""
    with pytest.raises(BadImage):
        decoding.decode(saved(drawn("RGB"), "PNG")[:cut], 64, "squash")


def test_a_bomb_is_not_inflated() -> None:
    """Of a file that inflates beyond its declared size, only its rows are read."""
    rows = zlib.compress(bytes(64 * 2**20), 9)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    body = png.SIGNATURE + png.chunk(b"IHDR", header) + png.chunk(b"IDAT", rows)
    like = Image.new("L", (8, 8))

    (strip,) = png.strips(body, like, 8, 0, 8)

    assert not np.asarray(strip).any()


def test_exif_after_the_pixels_is_applied() -> None:
    """An orientation after the image data rotates the picture."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    body = saved(drawn("RGB", 200, 100), "PNG", pnginfo=PngInfo())
    late = png.chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    turned = body[:-12] + late + body[-12:]

    assert decoding.inspect(body, ANY).orientation == 1
    assert decoding.inspect(turned, ANY).orientation == 6
