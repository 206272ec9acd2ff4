"""Colours of sRGB pixels: linear light, CIELAB, and daylight of a temperature."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Source: IEC 61966-2-1, primaries of BT.709 and the white of D65.
RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
WHITE = RGB_TO_XYZ.sum(axis=1)
EPSILON, KAPPA = 216 / 24389, 24389 / 27  # of CIELAB, CIE 15:2004


def to_linear(encoded: Floats) -> Floats:
    """Convert sRGB values of 0 to 1 to linear light of 0 to 1. Source: IEC 61966-2-1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_encoded(linear: Floats) -> Floats:
    """Convert linear light of 0 to 1 to sRGB values of 0 to 1. Source: IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_lab(pixels: NDArray[np.uint8]) -> Floats:
    """Convert sRGB pixels (..., 3) to CIELAB: L* of 0 to 100, a*, b*; white is D65.

    Source: CIE 15:2004.
    """
    xyz = to_linear(pixels / 255) @ RGB_TO_XYZ.T / WHITE
    x, y, z = np.moveaxis(np.where(xyz > EPSILON, np.cbrt(xyz), (KAPPA * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def daylight(temperature_k: float) -> Floats:
    """Return the linear sRGB (3,) of daylight with the luminance 1.

    *temperature_k*: correlated colour temperature, 4000 to 7000 K.
    Source: the daylight locus of CIE 15:2004.
    """
    t = 1000 / temperature_k
    x = -4.6070 * t**3 + 2.9678 * t**2 + 0.09911 * t + 0.244063
    y = -3.000 * x**2 + 2.870 * x - 0.275
    return np.linalg.solve(RGB_TO_XYZ, np.array([x / y, 1.0, (1 - x - y) / y]))
