"""Augmented images: their range, their seed, and the lesion in them."""

import numpy as np
import pytest
from macule.train.images import augmentation
from numpy.typing import NDArray
from support.images import skin


def images(count: int = 6) -> NDArray[np.uint8]:
    """Draw skin, 64 x 64."""
    return np.stack([np.asarray(skin(64, 64))] * count)


def test_artefacts_keep_shape_and_seed() -> None:
    """Hair, rulers, blur and JPEG keep the shape, and are the same for the same seed."""
    image = images(1)[0]
    runs = [
        [augmentation.add_artefacts(image, random) for _ in range(40)]
        for random in (np.random.default_rng(3), np.random.default_rng(3))
    ]

    assert all(a.shape == image.shape and a.dtype == np.uint8 for a in runs[0])
    assert all((a == b).all() for a, b in zip(*runs, strict=True))
    assert 5 < sum((a != image).any() for a in runs[0]) < 40


def test_crops_have_side_and_range() -> None:
    """Crops have the requested side, stay within 0 to 255, and differ."""
    pytest.importorskip("tensorflow")
    random = np.random.default_rng(5)

    framed = augmentation.jitter_colour(
        augmentation.random_crop(images(), 48, random), random
    ).numpy()

    assert framed.shape == (6, 48, 48, 3)
    assert framed.min() >= 0
    assert framed.max() <= 255
    assert np.abs(framed[0] - framed[1]).mean() > 2


def test_rotation_adds_no_black_edges() -> None:
    """A rotated crop that leaves the image is mirrored: white stays white."""
    pytest.importorskip("tensorflow")
    white = np.full((8, 64, 64, 3), 255, np.uint8)

    framed = augmentation.random_crop(white, 48, np.random.default_rng(1)).numpy()

    assert framed.min() == 255
