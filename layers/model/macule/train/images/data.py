"""Labelled training images from a folder with `labels.csv`, decoded as in production."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import dataset
from macule.convert.evaluation.dataset import Photo
from macule.inference import decoding

# Share of the image width in the column `cropped`: the centre square of a 4:3 image.
CROP_SHARE = 0.75


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images: `pixels` (n, side, side, 3) uint8 RGB, `truth` (n,) int64 in label order."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]


def label_order(photos: list[Photo]) -> list[str]:
    """Return the labels in the order of their first appearance, the order of the outputs."""
    return list(dict.fromkeys(photo.label for photo in photos))


def cropped_photos(folder: Path, photos: list[Photo]) -> list[Photo]:
    """List the photos of which *folder* only has the centre square, in the column `cropped`."""
    whole = {photo.row.get("lesion") for photo in photos}
    return [p for p in centre_squares(folder, photos) if p.row.get("lesion") not in whole]


def centre_squares(folder: Path, photos: list[Photo]) -> list[Photo]:
    """List all centre squares of *folder*; none if its table has no column `cropped`."""
    if not photos or photos[0].row.get("cropped") is None:
        return []
    return dataset.list_photos(folder, "cropped")


def decode_photos(
    photos: list[Photo], order: list[str], side_px: int, cropped: frozenset[Path] = frozenset()
) -> LabelledImages:
    """Decode *photos* as in production, with the whole image squashed to a square.

    The missing sides of the photos in *cropped* are filled by reflection.
    """
    pixels = np.empty((len(photos), side_px, side_px, 3), np.uint8)
    for place, photo in enumerate(photos):
        body = photo.path.read_bytes()
        if photo.path in cropped:
            size = (side_px, round(side_px * CROP_SHARE))
            pixels[place] = pad_to_square(np.asarray(decoding.decode(body, size, "squash").picture))
        else:
            pixels[place] = np.asarray(decoding.decode(body, side_px, "squash").picture)
    truth = [order.index(photo.label) for photo in photos]
    return LabelledImages(pixels, np.array(truth, np.int64))


def pad_to_square(centre: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad an image (h, w, 3) to a square by reflection at the left and right."""
    height, width, _ = centre.shape
    left = (height - width) // 2
    return np.pad(centre, ((0, 0), (left, height - width - left), (0, 0)), "reflect")
