"""Synthetic out-of-distribution images, to test the model; not used for training."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE_PX = 256
Random = np.random.Generator


def draw(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Generate *count* images (n, 256, 256, 3) RGB, alternating between all kinds."""
    random = np.random.default_rng(seed)
    kinds = (solid_colour, noise, smooth_gradient, text, shapes, screenshot, line_drawing)
    return np.stack([np.asarray(kinds[place % len(kinds)](random)) for place in range(count)])


def solid_colour(random: Random) -> Image.Image:
    return Image.new("RGB", (SIDE_PX, SIDE_PX), random_colour(random))


def noise(random: Random) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8))


def smooth_gradient(random: Random) -> Image.Image:
    """A smooth gradient of a few colours."""
    side = int(random.integers(2, 7))
    coarse = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
    return coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def text(random: Random) -> Image.Image:
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (250, 250, 245))
    pen, letters = ImageDraw.Draw(image), np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    for y in range(6, SIDE_PX, 14):
        pen.text((6, y), "".join(random.choice(letters, 40)), (20, 20, 20))
    return image


def shapes(random: Random) -> Image.Image:
    """Overlapping coloured ellipses and rectangles."""
    image = solid_colour(random)
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(0, SIDE_PX, 2).tolist()
        width, height = random.integers(10, 100, 2).tolist()
        form = pen.ellipse if random.random() < 0.5 else pen.rectangle
        form((x, y, x + width, y + height), random_colour(random))
    return image


def screenshot(random: Random) -> Image.Image:
    """A window with a title bar, buttons and lines of text."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (240, 240, 242))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, SIDE_PX, 22), random_colour(random))
    for y in range(34, SIDE_PX - 20, 30):
        pen.rectangle((10, y, 80, y + 18), random_colour(random))
        pen.text((16, y + 3), "Button", (255, 255, 255))
        pen.text((96, y + 3), "Some setting or other", (60, 60, 60))
    return image


def line_drawing(random: Random) -> Image.Image:
    """Black lines and arcs on a light background."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (255, 253, 248))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        start, end = random.integers(0, SIDE_PX, (2, 2)).tolist()
        pen.line((*start, *end), (10, 10, 10), int(random.integers(1, 5)))
        x, y = random.integers(0, SIDE_PX, 2).tolist()
        pen.arc((x - 40, y - 40, x + 40, y + 40), 0, int(random.integers(90, 360)), (10, 10, 10), 2)
    return image


def random_colour(random: Random) -> Any:
    return tuple(random.integers(0, 256, 3).tolist())
