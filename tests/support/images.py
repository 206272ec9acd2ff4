"""Images drawn for the tests, with a seed, so that every run sees the same."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from macule.inference.decoding import Decoded
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def skin(width: int = 640, height: int = 480, seed: int = 7) -> Image.Image:
    """Draw a dark spot, left of and above the middle, on grainy skin."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 6, (height // 4 + 1, width // 4 + 1, 1))
    base = np.clip(np.array([205, 160, 135]) + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(base).resize((width, height), Image.Resampling.BICUBIC)
    box = (width * 0.25, height * 0.2, width * 0.45, height * 0.45)
    ImageDraw.Draw(image).ellipse(box, fill=(92, 60, 48))
    return image


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Write an image to bytes."""
    if kind == "HEIF":  # six times as fast; decoding takes the same
        options = {"enc_params": {"preset": "ultrafast"}, **options}
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 640, height: int = 480, **options: Any) -> bytes:
    """Return a JPEG of drawn skin."""
    return saved(skin(width, height), **{"quality": 90, **options})


def pixels_of(decoded: Decoded) -> NDArray[np.uint8]:
    """Return the pixels (1, height, width, 3) of a decoded photo."""
    return np.asarray(decoded.picture)[None]
