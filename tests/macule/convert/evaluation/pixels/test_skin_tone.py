"""Skin tone: the ITA of the border of a photo, on colours drawn in CIELAB."""

import numpy as np
import pytest
from macule.convert.evaluation.pixels import colour, skin_tone

LIGHT, SPOT, BLACK, HAIR = (236, 200, 178), (92, 60, 48), (0, 0, 0), (80, 55, 45)


def plain(rgb: tuple[int, int, int], side_px: int = 64) -> np.ndarray:
    return np.full((side_px, side_px, 3), rgb, np.uint8)


def of_angle(degrees: float, chroma: float = 18) -> tuple[int, int, int]:
    """Return an sRGB colour of an ITA: a* = 10, b* = *chroma*."""
    lightness = 50 + chroma * np.tan(np.radians(degrees))
    y = (lightness + 16) / 116
    f = np.array([y + 10 / 500, y, y - chroma / 200])
    xyz = colour.WHITE * np.where(f**3 > colour.EPSILON, f**3, (116 * f - 16) / colour.KAPPA)
    linear = np.linalg.solve(colour.RGB_TO_XYZ, xyz)
    red, green, blue = np.rint(255 * colour.to_encoded(linear)).astype(int)
    return red, green, blue


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (62, "very light"),
        (48, "light"),
        (34, "intermediate"),
        (20, "tan"),
        (-10, "brown"),
        (-45, "dark"),
    ],
)
def test_a_colour_is_in_its_group(degrees: float, expected: str) -> None:
    """A plain colour has the angle that it was made from, and the group of that angle."""
    pixels = plain(of_angle(degrees))

    assert skin_tone.typology_angle(pixels) == pytest.approx(degrees, abs=2)
    assert skin_tone.estimate(pixels) == expected


def test_lab_of_known_colours() -> None:
    """White is L* 100 and neutral; sRGB red has the published CIELAB."""
    white, red = colour.to_lab(np.array([[255, 255, 255], [255, 0, 0]], np.uint8))

    assert white == pytest.approx([100, 0, 0], abs=0.05)
    assert red == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


def test_the_lesion_does_not_count() -> None:
    """A dark spot in the middle leaves the group of the skin around it."""
    pixels = plain(LIGHT)
    pixels[16:48, 16:48] = SPOT

    assert skin_tone.typology_angle(pixels) == skin_tone.typology_angle(plain(LIGHT))


def test_black_corners_are_ignored() -> None:
    """The corners outside the circle of a dermatoscope change nothing."""
    pixels = plain(LIGHT)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    pixels[np.hypot(x, y) > 1.1] = BLACK

    assert skin_tone.typology_angle(pixels) == skin_tone.typology_angle(plain(LIGHT))


def test_hair_is_ignored() -> None:
    """Dark lines over the border change nothing."""
    pixels = plain(LIGHT)
    pixels[::4] = HAIR

    assert skin_tone.typology_angle(pixels) == skin_tone.typology_angle(plain(LIGHT))


@pytest.mark.parametrize("rgb", [BLACK, (128, 128, 128), (60, 120, 220)])
def test_what_is_not_skin_has_no_group(rgb: tuple[int, int, int]) -> None:
    """A border that is black, gray or blue is unknown."""
    assert skin_tone.estimate(plain(rgb)) == skin_tone.UNKNOWN
