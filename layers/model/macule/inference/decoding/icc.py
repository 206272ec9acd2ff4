"""ICC profiles: validation, construction, and conversion to sRGB.

A profile that is damaged, too large or implausible is ignored with a reason; the image is then
treated as sRGB, as browsers do.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

MAX_PROFILE_BYTES = 4 * 2**20  # CMYK printing profiles have 0.5 to 2.7 MB
HEADER_BYTES = 128
CLASSES = {b"scnr", b"mntr", b"prtr", b"spac"}  # input, display, output and colour space profiles
# Colour space of a profile -> Pillow modes that it can describe.
SPACES = {
    b"RGB ": ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA"),
    b"GRAY": ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I"),
    b"CMYK": ("CMYK",),
}
WHITE, BLACK = {"CMYK": (0, 0, 0, 0)}, {"CMYK": (0, 0, 0, 255)}  # 255 and 0 of each in other modes
MIN_WHITE = 128  # minimum value of converted white, of 255
# Code points of ITU-T H.273: primaries as x and y of red, green, blue and white; exponent or curve.
D65 = (0.3127, 0.3290)
PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *D65),  # BT.709, sRGB
    4: (0.670, 0.330, 0.210, 0.710, 0.140, 0.080, 0.310, 0.316),  # BT.470 M
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *D65),  # BT.470 B/G
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),  # BT.601
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),  # BT.2020
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),  # DCI-P3
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65),  # Display P3
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Video curves are treated as sRGB, as in browsers; PQ (16) and HLG (18) are HDR curves.
TRANSFERS = dict.fromkeys((1, 6, 13, 14, 15), SRGB_CURVE) | {4: (2.2,), 5: (2.8,), 8: (1.0,)}
UNSPECIFIED = 2
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
D50 = (0.9642, 1.0, 0.8249)


class Colour(NamedTuple):
    """The ICC profile of an image, b"" for sRGB; and why the embedded profile is ignored."""

    profile: bytes
    ignored: str = ""


def check_embedded(mode: str, profile: bytes) -> Colour:
    """Validate the header of the ICC profile embedded in an image of *mode*."""
    if len(profile) > MAX_PROFILE_BYTES:
        return Colour(b"", f"of {len(profile):,} bytes; at most {MAX_PROFILE_BYTES:,} are read")
    if len(profile) < HEADER_BYTES or profile[36:40] != b"acsp":
        return Colour(b"", "not an ICC profile")
    if profile[12:16] not in CLASSES:
        return Colour(b"", "not of a device or a colour space")
    space = profile[16:20]
    if mode not in SPACES.get(space, ()):
        name = space.decode("latin-1").strip()
        return Colour(b"", f"of {name[:4]!a}, the image is {mode}")
    return Colour(profile)


def from_code_points(primaries: int, transfer: int) -> Colour:
    """Return the profile of two ITU-T H.273 code points, as in cICP and nclx."""
    primaries = 1 if primaries == UNSPECIFIED else primaries
    transfer = 13 if transfer == UNSPECIFIED else transfer
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        return Colour(b"", f"colour primaries {primaries} with transfer {transfer} are not read")
    if primaries == 1 and TRANSFERS[transfer] == SRGB_CURVE:
        return Colour(b"")
    return _build(PRIMARIES[primaries], TRANSFERS[transfer])


def from_gamma(gamma: float, chromaticity: Sequence[float]) -> Colour:
    """Return the profile of a PNG's gAMA (0.45455 for 2.2) and cHRM (x, y of white, r, g, b)."""
    known = PRIMARIES[1]
    points = (*chromaticity[2:8], *chromaticity[:2]) if len(chromaticity) == 8 else known
    if abs(gamma - 1 / 2.2) < 0.005:  # written by encoders for sRGB
        curve: tuple[float, ...] = SRGB_CURVE
    elif 0.1 <= gamma <= 2:
        curve = (1 / gamma,)
    else:
        return Colour(b"", f"a gamma of {gamma:g}")
    if curve == SRGB_CURVE and max(abs(a - b) for a, b in zip(points, known, strict=True)) < 0.002:
        return Colour(b"")
    return _build(points, curve)


def to_srgb(picture: Image, profile: bytes) -> tuple[Image, str]:
    """Convert a picture from *profile* to sRGB.

    Returns: the RGB picture; the reason if the profile was not applied, else "".
    """
    from PIL import ImageCms
    from PIL.Image import new

    if profile[16:20] == b"GRAY":
        picture = picture.convert("L")
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            picture.mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
        ends = new(picture.mode, (2, 1), WHITE.get(picture.mode, "white"))
        ends.putpixel((1, 0), BLACK.get(picture.mode, 0))
        mapped = ImageCms.applyTransform(ends, transform)
        white, black = min(_pixel(mapped, 0)), max(_pixel(mapped, 1))
        if white < max(MIN_WHITE, black + 1):
            return picture.convert("RGB"), f"white becomes {white}, black {black}"
        converted: Image | None = ImageCms.applyTransform(picture, transform)
    except (ImageCms.PyCMSError, ValueError, TypeError, OSError) as error:
        return picture.convert("RGB"), f"damaged ({error})"[:120]
    return converted or picture.convert("RGB"), ""


def _pixel(picture: Image | None, x: int) -> Any:
    return picture.getpixel((x, 0)) if picture else ()


def _build(points: Sequence[float], curve: Sequence[float]) -> Colour:
    try:
        return Colour(build_profile(points, curve))
    except (ArithmeticError, struct.error):
        return Colour(b"", "its primaries make no colour space")


def build_profile(points: Sequence[float], curve: Sequence[float] = SRGB_CURVE) -> bytes:
    """Build the ICC profile of an RGB colour space.

    Args:
      points: x and y of red, green, blue and white.
      curve: an exponent, or the five numbers of a parametric curve of type 3.
    Raises: ArithmeticError, struct.error if the points span no colour space.
    Source: ICC.1:2010, Bradford's adaptation to D50.
    """
    pairs = zip(points[::2], points[1::2], strict=True)
    *primaries, white = ((x / y, 1.0, (1 - x - y) / y) for x, y in pairs)
    columns = list(zip(*primaries, strict=True))
    shares = _times(_inverse(columns), white)
    adaptation = zip(_times(BRADFORD, D50), _times(BRADFORD, white), strict=True)
    cones = [target / source for target, source in adaptation]
    back = _inverse(BRADFORD)
    kind = 3 if len(curve) == 5 else 0
    para = b"para" + bytes(4) + struct.pack(">HH", kind, 0) + b"".join(map(_fixed, curve))
    tags = {b"desc": _text("RGB"), b"cprt": _text(""), b"wtpt": _xyz(D50)}
    for name, primary, share in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, shares, strict=True):
        adapted = [cone * part for cone, part in zip(cones, _times(BRADFORD, primary), strict=True)]
        tags[name] = _xyz([share * value for value in _times(back, adapted)])
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), para)
    return _file(tags)


def _file(tags: dict[bytes, bytes]) -> bytes:
    place, table, data = HEADER_BYTES + 4 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    made_at, illuminant = struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"".join(map(_fixed, D50))
    about = place + len(data), b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ", made_at
    header = struct.pack(">I4sI4s4s4s12s4s24sI12s48s", *about, b"acsp", b"", 0, illuminant, b"")
    return header + struct.pack(">I", len(tags)) + table + data


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _text(text: str) -> bytes:
    coded = text.encode("utf-16-be")
    record = struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28)
    return b"mluc" + bytes(4) + record + coded


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _inverse(m: Sequence[Sequence[float]]) -> list[list[float]]:
    """Invert a 3 x 3 matrix by cofactors.

    Raises: ZeroDivisionError.
    """
    rest = (1, 2), (2, 0), (0, 1)  # the other two rows or columns
    cofactors = [[m[a][c] * m[b][d] - m[a][d] * m[b][c] for a, b in rest] for c, d in rest]
    determinant = sum(m[0][i] * cofactors[i][0] for i in range(3))
    return [[value / determinant for value in row] for row in cofactors]
