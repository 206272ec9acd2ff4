"""Skin tone of a photo: the individual typology angle (ITA) of the skin around the lesion.

An estimate from the pixels. It depends on exposure, light and white balance, and is not a
measurement of the person.
"""

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation.pixels import colour

# Each group lies above its angle in degrees. Source: Chardon et al. 1991, Int. J. Cosmetic Science
# 13, 191-208; "dark" from Del Bino and Bernerd 2013, Br. J. Dermatology 169 (s3), 33-40.
GROUPS = {
    "very light": 55.0,
    "light": 41.0,
    "intermediate": 28.0,
    "tan": 10.0,
    "brown": -30.0,
    "dark": -np.inf,
}
UNKNOWN = "unknown"
BORDER_SHARE = 1 / 8  # of each side: the width of the border region
MIN_LIGHTNESS = 25  # L*; darker pixels are the black corners of a dermatoscope, or padding
HAIR_LIGHTNESS = 15  # L* below the median of the border: hair, or a lesion that reaches it
MIN_YELLOW = 2  # b*; below, a small error of the white balance decides the sign of the angle
MIN_SKIN_SHARE = 1 / 4  # of the border region; with less, the group is unknown


def estimate(pixels: NDArray[np.uint8]) -> str:
    """Estimate the group of a photo (h, w, 3), uint8, sRGB: a key of GROUPS, or UNKNOWN."""
    angle = typology_angle(pixels)
    return next((name for name, above in GROUPS.items() if angle > above), UNKNOWN)


def typology_angle(pixels: NDArray[np.uint8]) -> float:
    """Estimate the ITA of the skin at the border of a photo.

    The ITA is arctan((L* - 50) / b*), of the median colour of the border without dark pixels.

    Args:
      pixels: shape (h, w, 3), uint8, sRGB.
    Returns: degrees, -90 to 90; nan with too few pixels, or if b* is below MIN_YELLOW.
    """
    border = border_pixels(pixels)
    lab = colour.to_lab(border)
    lab = lab[lab[:, 0] >= MIN_LIGHTNESS]
    if len(lab):
        lab = lab[lab[:, 0] >= np.median(lab[:, 0]) - HAIR_LIGHTNESS]
    if len(lab) < MIN_SKIN_SHARE * len(border):
        return float("nan")
    lightness, _, yellow = np.median(lab, axis=0)
    if yellow < MIN_YELLOW:
        return float("nan")
    return float(np.degrees(np.arctan((lightness - 50) / yellow)))


def border_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels (n, 3) of the border region of a photo (h, w, 3)."""
    height, width = pixels.shape[:2]
    down, across = max(1, round(height * BORDER_SHARE)), max(1, round(width * BORDER_SHARE))
    is_border = np.ones((height, width), bool)
    is_border[down : height - down, across : width - across] = False
    return pixels[is_border]
