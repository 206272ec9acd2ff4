"""Augmentation of training images: geometry, colour, blur, JPEG artefacts, hair, rulers."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
# Probabilities and ranges: the differences between photos of one lesion, within the limits in which
# a person recognises the same lesion.
P_HAIR, P_RULER, P_BLUR, P_JPEG = 0.15, 0.1, 0.2, 0.3
MIN_CROP_AREA = 0.4
MAX_LOG_ASPECT = 0.2
BRIGHTNESS, CONTRAST, SATURATION, TINT = 0.25, 0.25, 0.3, 0.06
MAX_GRADIENT = 0.25  # of brightness across the image


def add_artefacts(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Add hair, ruler marks, blur and JPEG artefacts to an image (h, w, 3), each at random."""
    hair, ruler, blur, jpeg = random.random(4) < (P_HAIR, P_RULER, P_BLUR, P_JPEG)
    if not (hair or ruler or blur or jpeg):
        return pixels
    image = Image.fromarray(pixels)
    if hair:
        draw_hairs(image, random)
    if ruler:
        draw_ruler(image, random)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.5)))
    if jpeg:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(random.integers(40, 90)))
        image = Image.open(file)
    return np.asarray(image)


def draw_hairs(image: Image.Image, random: np.random.Generator) -> None:
    """Draw hairs: dark arcs, 1 or 2 pixels wide, across the image."""
    pen, side = ImageDraw.Draw(image), image.width
    for _ in range(random.integers(2, 12)):
        x, y = random.uniform(-side / 2, side, 2)
        width, height = random.uniform(side / 3, 2 * side, 2)
        start = random.uniform(0, 360)
        shade = tuple(int(level) for level in random.integers(10, 80) + random.integers(0, 30, 3))
        box = (x, y, x + width, y + height)
        pen.arc(box, start, start + random.uniform(20, 120), shade, int(random.integers(1, 3)))


def draw_ruler(image: Image.Image, random: np.random.Generator) -> None:
    pen, side = ImageDraw.Draw(image), image.width
    gap, depth = random.uniform(6, 20), random.uniform(0.02, 0.08) * side
    upright, far = random.random(2) < 0.5
    for place, at in enumerate(np.arange(random.uniform(0, gap), side, gap)):
        reach = depth * (1.6 if place % 5 == 0 else 1)
        ends = [(side - reach, side)] if far else [(0, reach)]
        line = [(at, ends[0][0]), (at, ends[0][1])]
        pen.line([point[::-1] for point in line] if upright else line, (20, 20, 20), 1)


def random_crop(images: NDArray[np.uint8], side_px: int, random: np.random.Generator) -> Any:
    """Rotate, mirror and crop images (n, h, w, 3); pixels outside the image are reflected.

    Returns: tensor (n, side_px, side_px, 3), float32, 0 to 255.
    """
    import tensorflow as tf

    count, height, width, _ = images.shape
    area = random.uniform(MIN_CROP_AREA, 1, count)
    aspect = np.exp(random.uniform(-MAX_LOG_ASPECT, MAX_LOG_ASPECT, count))
    across, down = np.sqrt(area * aspect), np.sqrt(area / aspect)
    angle = random.integers(0, 4, count) * (np.pi / 2) + random.normal(0, 0.2, count)
    flip = random.choice([-1.0, 1.0], count)
    # centre of the crop, chosen so that an unrotated crop is inside the image
    x = width * (0.5 + random.uniform(-0.5, 0.5, count) * np.maximum(1 - across, 0))
    y = height * (0.5 + random.uniform(-0.5, 0.5, count) * np.maximum(1 - down, 0))
    zoom_x, zoom_y = flip * across * width / side_px, down * height / side_px
    a, b = np.cos(angle) * zoom_x, -np.sin(angle) * zoom_y
    c, d = np.sin(angle) * zoom_x, np.cos(angle) * zoom_y
    half = (side_px - 1) / 2
    zeros = np.zeros(count)
    rows = [a, b, x - a * half - b * half, c, d, y - c * half - d * half, zeros, zeros]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=np.stack(rows, axis=1).astype(np.float32),
        output_shape=[side_px, side_px],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def jitter_colour(images: Any, random: np.random.Generator) -> Any:
    """Change brightness, contrast, saturation and tint of a tensor (n, side, side, 3), 0 to 255."""
    import tensorflow as tf

    count, side = images.shape[0], images.shape[1]
    gray = np.full((3, 3), 1 / 3)
    saturation = np.exp(random.uniform(-SATURATION, SATURATION, (count, 1, 1)))
    contrast = np.exp(random.uniform(-CONTRAST, CONTRAST, (count, 1, 1)))
    tint = np.exp(random.normal(0, TINT, (count, 1, 3)))
    matrix = (gray + (np.eye(3) - gray) * saturation) * contrast * tint
    centre = np.mean(images, axis=(1, 2))[:, None]
    offset = centre - centre @ matrix + 128 * random.uniform(-BRIGHTNESS, BRIGHTNESS, (count, 1, 1))
    slopes = random.uniform(-MAX_GRADIENT, MAX_GRADIENT, (count, 2))
    slopes *= random.random((count, 1)) < 0.5
    ramp = np.linspace(-1, 1, side)
    shade = 1 + slopes[:, 0, None, None] * ramp[:, None] + slopes[:, 1, None, None] * ramp
    flat = tf.reshape(images, (count, side * side, 3))
    coloured = flat @ tf.constant(matrix, tf.float32) + tf.constant(offset, tf.float32)
    lit = tf.reshape(coloured, images.shape) * tf.constant(shade[..., None], tf.float32)
    return tf.clip_by_value(lit, 0.0, 255.0)
