"""Images in colour spaces other than sRGB, as phones, cameras and editors save them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from macule.inference.decoding import icc
from PIL import Image, ImageCms

SRGB = ImageCms.createProfile("sRGB")
PROFILES = {
    "Display P3": icc.build_profile(icc.PRIMARIES[12]),
    "Adobe RGB": icc.build_profile(
        (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329), (563 / 256,)
    ),
    "linear BT.2020": icc.build_profile(icc.PRIMARIES[9], (1.0,)),
}


def into(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert sRGB to a profile, as a camera or an editor does."""
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(picture, SRGB, target, outputMode="RGB")
    assert converted is not None
    converted.info.clear()
    return converted


def delta_e(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean distance of two images in CIELAB (CIE 1976): shape (h, w, 3), uint8."""
    to_lab = ImageCms.buildTransform(SRGB, ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = []
    for pixels in (one, other):
        encoded = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), to_lab))
        lightness = encoded[..., :1] * (100 / 255)
        lab.append(np.concatenate([lightness, encoded[..., 1:].view(np.int8)], -1))
    return float(np.sqrt(((lab[0] - lab[1]) ** 2).sum(-1)).mean())
