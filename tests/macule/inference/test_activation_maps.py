"""Activation maps as images."""

from array import array
from io import BytesIO

import numpy as np
import pytest
from macule.inference import activation_maps
from macule.inference.runtime import ActivationMap
from numpy.typing import NDArray
from PIL import Image


def activation_map(values: NDArray[np.float32]) -> ActivationMap:
    """Convert an array (h, w)."""
    return ActivationMap(array("f", values.tobytes()), values.shape[1], values.shape[0])


def gray(level: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (level,) * 3)


def opened(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png), formats=["PNG"])


def test_the_overlay_keeps_the_shape_of_the_photo() -> None:
    """Both images have the photo's shape and are at most LONGEST_PX long."""
    identity = activation_map(np.eye(7, dtype=np.float32))

    pictures = activation_maps.render(identity, gray(128), (1200, 800))

    assert opened(pictures.heatmap).size == opened(pictures.overlay).size == (256, 171)


def test_the_overlay_is_coloured_where_the_evidence_is() -> None:
    """The colour is visible where the map is high, and the photo where it is zero or negative."""
    activation = np.zeros((7, 7), np.float32)
    activation[0, 0], activation[6, 6] = 5, -5
    shown = activation_maps.render(activation_map(activation), gray(128), (1, 1))
    overlay = opened(shown.overlay)

    corner, opposite = overlay.getpixel((5, 5)), overlay.getpixel((250, 250))
    assert isinstance(corner, tuple)
    assert max(corner) - min(corner) > 60
    assert opposite == (128, 128, 128)


def test_no_skin_turns_green() -> None:
    """Over skin and lesions of all colours no level of the map adds green."""
    activation = np.linspace(0, 1, 256, dtype=np.float32)[None]
    for colour in ((250, 215, 195), (200, 150, 120), (141, 85, 36), (60, 40, 30), (120, 110, 125)):
        photo = Image.new("RGB", (64, 64), colour)
        shown = activation_maps.render(activation_map(activation), photo, (256, 8))
        overlay = np.asarray(opened(shown.overlay))
        greenness = np.array([-1, 2, -1])

        assert (overlay @ greenness <= np.array(colour) @ greenness + 2).all()


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_map_without_evidence_leaves_the_photo(value: float) -> None:
    """A map without positive values draws nothing and does not divide by zero."""
    flat = activation_map(np.full((7, 7), value, np.float32))

    overlay = opened(activation_maps.render(flat, gray(77), (1, 1)).overlay)

    assert overlay.getextrema() == ((77, 77),) * 3


def test_images_stay_within_their_limit() -> None:
    """Noise, which makes the largest PNG, stays within MOST_CHARACTERS."""
    rng = np.random.default_rng(7)
    noise = activation_map(rng.random((256, 256), np.float32))
    photo = Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8))

    pictures = activation_maps.render(noise, photo, (1, 1))

    assert (
        sum(len(activation_maps.data_uri(png)) for png in pictures) < activation_maps.MAX_CHARACTERS
    )
