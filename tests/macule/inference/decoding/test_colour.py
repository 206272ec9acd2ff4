"""Colour: profiles, code points and gammas become sRGB; invalid ones are ignored."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pytest
from macule.inference import decoding
from macule.inference.decoding import icc
from macule.inference.decoding.formats import png
from PIL import Image
from support.colour_images import PROFILES, delta_e, into
from support.images import pixels_of, saved, skin

P3 = PROFILES["Display P3"]


def decode(body: bytes) -> decoding.Decoded:
    return decoding.decode(body, 64, "squash")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean deltaE of two model inputs."""
    return delta_e(one[0], other[0])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return pixels_of(decode(saved(skin(), "PNG")))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_colour_spaces_give_the_colours_of_srgb(name: str, kind: str, expected: np.ndarray) -> None:
    """Images in Display P3, Adobe RGB and linear BT.2020 match their sRGB copies."""
    profile = PROFILES[name]
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    options: dict[str, Any] = {"PNG": {}, "TIFF": {}}.get(kind, {"quality": 95})
    twin = into(skin(), profile)
    found = decode(saved(twin, kind, icc_profile=profile, **options))
    bare = decode(saved(twin, "PNG"))

    assert not found.ignored
    assert difference(pixels_of(found), expected) <= 2
    assert difference(pixels_of(bare), expected) > 3


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes_keep_their_profile(mode: str, expected: np.ndarray) -> None:
    """A profile applies to a palette's colours, and transparent pixels are white."""
    twin = into(skin(), P3)
    if mode == "RGBA":
        twin.putalpha(255)
    body = saved(twin.convert(mode, palette=Image.Palette.ADAPTIVE), "PNG", icc_profile=P3)

    assert difference(pixels_of(decode(body)), expected) <= 2.5


def gray_profile(gamma: float) -> bytes:
    """Write a gray profile: a curve without colours."""
    whole = icc.build_profile(icc.PRIMARIES[1], (gamma,))
    return whole[:16] + b"GRAY" + whole[20:].replace(b"rTRC", b"kTRC")


def test_gray_of_another_gamma_becomes_srgb() -> None:
    """A scanner's linear gray gets the brightness of sRGB gray."""
    gray = skin().convert("L")
    linear = gray.point([round(255 * (level / 255) ** 2.2) for level in range(256)])
    found = decode(saved(linear, "PNG", icc_profile=gray_profile(1.0)))

    assert not found.ignored
    assert difference(pixels_of(found), pixels_of(decode(saved(gray, "PNG")))) <= 2


def chunked(body: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Insert chunks after a PNG's header."""
    return body[:33] + b"".join(png.chunk(*each) for each in chunks) + body[33:]


def test_a_png_states_its_colours_in_numbers(expected: np.ndarray) -> None:
    """cICP, and gAMA with cHRM, have the effect of the equivalent ICC profile."""
    p3 = saved(into(skin(), P3), "PNG")
    points = [round(100_000 * value) for value in icc.PRIMARIES[12]]
    chrm = struct.pack(">8I", *points[6:], *points[:6])
    gama = struct.pack(">I", round(100_000 / 2.2))
    linear = saved(into(skin(), icc.build_profile(icc.PRIMARIES[1], (1.0,))), "PNG")

    for body in (
        chunked(p3, (b"cICP", bytes([12, 13, 0, 1]))),
        chunked(p3, (b"gAMA", gama), (b"cHRM", chrm)),
        chunked(linear, (b"gAMA", struct.pack(">I", 100_000))),
    ):
        assert difference(pixels_of(decode(body)), expected) <= 2
    unchanged = chunked(saved(skin(), "PNG"), (b"sRGB", b"\0"), (b"gAMA", gama))
    assert (pixels_of(decode(unchanged)) == expected).all()


def test_a_heic_states_its_colours_in_numbers(expected: np.ndarray) -> None:
    """A colr box of type nclx has the effect of the equivalent profile."""
    file = BytesIO()
    twin = pillow_heif.from_pillow(into(skin(), P3))
    twin.save(file, quality=95, color_primaries=12, transfer_characteristics=13)

    assert difference(pixels_of(decode(file.getvalue())), expected) <= 2


def zeroed(profile: bytes) -> bytes:
    """Return a profile that turns every colour into black."""
    start = icc.HEADER_BYTES + 4
    whole = bytearray(profile)
    for entry in range(start, start + 12 * struct.unpack_from(">I", whole, 128)[0], 12):
        name, place = struct.unpack_from(">4sI", whole, entry)
        if name.endswith(b"XYZ"):
            whole[place + 8 : place + 20] = bytes(12)
    return bytes(whole)


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (b"no profile", "not an ICC profile"),
        (P3[:200], "damaged"),
        (P3[:12] + b"link" + P3[16:], "not of a device"),
        (P3[:16] + b"CMYK" + P3[20:], "the image is RGB"),
        (P3[:16] + b"\xff\xfe\0\n" + P3[20:], "the image is RGB"),
        (zeroed(P3), "white becomes 0"),
        (P3 + bytes(icc.MAX_PROFILE_BYTES), "at most 4,194,304"),
    ],
)
def test_an_invalid_profile_is_not_applied(profile: bytes, why: str, expected: np.ndarray) -> None:
    """The image is read as sRGB, and the log has the reason."""
    found = decode(saved(skin(), "TIFF", icc_profile=profile))

    assert why in found.ignored
    assert len(found.ignored) <= 120
    assert difference(pixels_of(found), expected) == 0


def test_a_png_with_an_endless_profile_is_read(expected: np.ndarray) -> None:
    """A profile that inflates beyond the limit is removed, and the image is read."""
    endless = b"x\0\0" + zlib.compress(P3 + bytes(2**26))
    found = decode(chunked(saved(skin(), "PNG"), (b"iCCP", endless)))

    assert (pixels_of(found) == expected).all()


@pytest.mark.parametrize("codes", [(99, 13), (9, 16), (9, 18)])
def test_hdr_is_not_guessed(codes: tuple[int, int]) -> None:
    """HDR curves and unknown code points are named, and the values read as sRGB."""
    assert icc.from_code_points(*codes).profile == b""
    assert "not read" in icc.from_code_points(*codes).ignored


def test_the_profile_of_a_pil_image_is_applied(expected: np.ndarray) -> None:
    """`fit` reads a PIL image as `decode` reads its file."""
    twin = into(skin(), P3)
    twin.info["icc_profile"] = P3

    assert difference(pixels_of(decoding.fit(twin, 64, "squash")), expected) <= 2


def cmyk_profile() -> bytes:
    """Write a printer's profile: two grid points an ink; each ink takes lightness, black all."""
    ramp = bytes(range(256))
    grid = b""
    for inks in range(16):
        cyan, magenta, yellow, black = (inks >> bit & 1 for bit in (3, 2, 1, 0))
        light = 0 if black else 255 - 60 * (cyan + magenta + yellow)
        grid += bytes([light, 128 + 40 * (magenta - cyan), 128 + 40 * (yellow - cyan)])
    matrix = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + grid + ramp * 3
    head = icc.build_profile(icc.PRIMARIES[1])[: icc.HEADER_BYTES]
    place = icc.HEADER_BYTES + 4 + 12
    head = struct.pack(">I", place + len(lut)) + head[4:8] + b"\2\x40\0\0prtrCMYKLab " + head[24:]
    return head + struct.pack(">I4sII", 1, b"A2B0", place, len(lut)) + lut


def test_cmyk_uses_its_own_profile() -> None:
    """CMYK follows its profile, which differs from Pillow's formula."""
    inks = Image.new("CMYK", (90, 90), (0, 255, 255, 0))
    with_profile = decode(saved(inks, "TIFF", icc_profile=cmyk_profile()))
    without = decode(saved(inks, "TIFF"))

    assert not with_profile.ignored
    assert tuple(pixels_of(without)[0, 0, 0]) == (255, 0, 0)
    assert 100 < int(pixels_of(with_profile)[0, 0, 0].max()) < 250
