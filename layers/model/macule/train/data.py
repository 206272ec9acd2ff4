"""A folder with `labels.csv` to labelled pixels, through the decoder that serves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import dataset
from macule.convert.evaluation.dataset import Photo
from macule.inference import decoding

# Share of the frame's width that `cropped` shows: the centre square of 4:3, the usual camera's.
CROP_SHARE = 0.75


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images: `pixels` (n, side, side, 3) uint8 RGB, `truth` (n,) int64 in label order."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]


def label_order(photos: list[Photo]) -> list[str]:
    """Labels in the order of their first appearance; this is the order of the outputs."""
    return list(dict.fromkeys(photo.label for photo in photos))


def cropped_photos(folder: Path, photos: list[Photo]) -> list[Photo]:
    """Find the photos of which *folder* has only the centre square, in its column `cropped`."""
    if not photos or photos[0].row.get("cropped") is None:
        return []
    seen = {photo.row.get("lesion") for photo in photos}
    return [p for p in dataset.list_photos(folder, "cropped") if p.row.get("lesion") not in seen]


def decode_photos(
    photos: list[Photo], order: list[str], side_px: int, centred: frozenset[Path] = frozenset()
) -> LabelledImages:
    """Decode *photos* exactly as a request is decoded, the whole frame squashed to a square.

    What a photo of *centred* lacks at its sides is mirrored there.
    """
    pixels = np.empty((len(photos), side_px, side_px, 3), np.uint8)
    for place, photo in enumerate(photos):
        body = photo.path.read_bytes()
        if photo.path in centred:
            pixels[place] = pad_to_square(
                decoding.decode(body, (side_px, round(side_px * CROP_SHARE)), "squash").pixels[0]
            )
        else:
            pixels[place] = decoding.decode(body, side_px, "squash").pixels[0]
    return LabelledImages(
        pixels, np.array([order.index(photo.label) for photo in photos], np.int64)
    )


def pad_to_square(centre: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror (h, w, 3) at its sides until it is a square."""
    height, width, _ = centre.shape
    left = (height - width) // 2
    return np.pad(centre, ((0, 0), (left, height - width - left), (0, 0)), "reflect")
