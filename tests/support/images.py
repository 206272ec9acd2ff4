"""Images drawn for the tests, with a seed, so that every run sees the same."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from macule.inference.decoding import Decoded
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from support.service import ROOT


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


def through_dermatoscope(half_px: int) -> Image.Image:
    """Draw the mole of the example photo as a dermatoscope shows it: large, in a dark circle."""
    spot = Image.open(ROOT / "examples/spot.jpg")
    x, y = spot.width * 0.4, spot.height * 0.51
    frame = tuple(map(round, (x - half_px, y - half_px, x + half_px, y + half_px)))
    close = np.asarray(spot.crop(frame).resize((800, 800), Image.Resampling.BICUBIC))  # type: ignore[arg-type]
    across = np.linspace(-1, 1, 800)
    light = 1 - 0.5 / (1 + np.exp(12 * (1 - np.hypot(across, across[:, None]))))
    return Image.fromarray((close * light[..., None]).astype(np.uint8))


@cache
def close_up() -> bytes:
    """Return a JPEG of a mole that the default model classifies, unlike the whole example photo."""
    return _middle("classified", (through_dermatoscope(half) for half in range(120, 280, 40)))


@cache
def unclear() -> bytes:
    """Return a JPEG of a mole that is `unfamiliar` to the default model: with high contrast."""
    mole = ImageEnhance.Contrast(through_dermatoscope(120))
    return _middle("unfamiliar", (mole.enhance(factor / 10) for factor in range(12, 44, 4)))


def _middle(wanted: str, images: Iterable[Image.Image]) -> bytes:
    """Return the JPEG in the middle of those with the wanted decision or reason of the model."""
    import macule

    bodies = [saved(image, quality=100) for image in images]
    results = macule.load().predict_many(bodies)
    found = [
        body
        for body, result in zip(bodies, results, strict=True)
        if wanted in (result.decision, result.reason)
    ]
    return found[len(found) // 2]


def pixels_of(decoded: Decoded) -> NDArray[np.uint8]:
    """Return the pixels (1, height, width, 3) of a decoded photo."""
    return np.asarray(decoded.picture)[None]
