"""The inputs of the recipe: which photos there are, and their images, decoded once."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import dataset, folds
from macule.convert.evaluation.dataset import Photo
from macule.train import stored
from macule.train.images import data, duplicates
from macule.train.plan import Log

FILE = "inputs.npz"


class Photos(NamedTuple):
    """The photos of a recipe.

    `lesions`: one for each lesion; those in `cropped` only show the centre square of the frame.
    `squares`: the centre squares of the others. `clinical`: photos without a dermatoscope that the
    scores are fitted on; `clinical_held`: those of other patients.
    """

    lesions: list[Photo]
    cropped: list[Photo]
    squares: list[Photo]
    clinical: list[Photo]
    clinical_held: list[Photo]

    @property
    def labels(self) -> list[str]:
        return data.label_order(self.lesions)

    @property
    def fitted(self) -> list[Photo]:
        """All photos that the model is fitted on, in every rendering."""
        return [*self.lesions, *self.squares, *self.clinical]


class Inputs(NamedTuple):
    """The decoded images of a recipe, uint8 RGB.

    `whole` (n, side, side, 3), one for each lesion, with `truth` (n,) and `fold_of` (n,).
    `squares`: centre squares of some lesions, with their place in `whole`, `square_of` (m,).
    `clinical`: clinical photos, each in all its symmetries.
    """

    whole: NDArray[np.uint8]
    truth: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    squares: NDArray[np.uint8]
    square_of: NDArray[np.int64]
    clinical: NDArray[np.uint8]

    def save(self, work: Path) -> None:
        stored.write(work / FILE, self)


def list_photos(folder: Path, column: str | None, clinical: Path | None) -> Photos:
    """List the photos of a folder with labels.csv, and those of a folder of clinical photos."""
    photos = dataset.list_photos(folder, column)
    cropped = data.cropped_photos(folder, photos)
    names = {photo.row.get("lesion") for photo in photos}
    squares = [p for p in data.centre_squares(folder, photos) if p.row.get("lesion") in names]
    other = dataset.list_photos(clinical) if clinical else []
    half = halves(other)
    return Photos(
        [*photos, *cropped],
        cropped,
        squares,
        [photo for photo, part in zip(other, half, strict=True) if part == 0],
        [photo for photo, part in zip(other, half, strict=True) if part == 1],
    )


def halves(photos: list[Photo]) -> NDArray[np.int64]:
    """Assign photos (n,) to half 0 or 1; those of a patient to the same one."""
    labels = data.label_order(photos)
    truth = np.array([labels.index(photo.label) for photo in photos], np.int64)
    _, names = folds.name_groups(photos)
    return folds.assign_folds(truth, folds.number_groups(names), 2)


def prepare(photos: Photos, side_px: int, work: Path, log: Log) -> None:
    """Decode all photos, assign the folds, and write both into *work*."""
    log(f"decoding {len(photos.fitted)} photos of {len(photos.labels)} labels")
    labels = photos.labels
    cropped = frozenset(photo.path for photo in photos.cropped)
    lesions = data.decode_photos(photos.lesions, labels, side_px, cropped)
    place_of = {photo.row.get("lesion"): place for place, photo in enumerate(photos.lesions)}
    alike = duplicates.group(lesions.pixels)
    log(f"{len(alike)} lesions, {len(np.unique(alike))} of which look different")
    decoded = Inputs(
        lesions.pixels,
        lesions.truth,
        folds.assign_folds(lesions.truth, alike, folds.FOLDS),
        data.decode_photos(photos.squares, labels, side_px).pixels,
        np.array([place_of[photo.row.get("lesion")] for photo in photos.squares], np.int64),
        symmetric(photos.clinical, side_px),
    )
    decoded.save(work)


def symmetric(photos: list[Photo], side_px: int) -> NDArray[np.uint8]:
    """Decode photos, each in all its symmetries, (n, side, side, 3)."""
    decoded = data.decode_photos(photos, data.label_order(photos), side_px).pixels
    turned = [image for photo in decoded for image in duplicates.symmetries(photo)]
    return np.array(turned, np.uint8).reshape(-1, side_px, side_px, 3)


def load(work: Path) -> Inputs:
    return stored.read(work / FILE, Inputs)
