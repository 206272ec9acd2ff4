"""A folder with `labels.csv` to labelled pixels, through the decoder that serves."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from macule import image
from numpy.typing import NDArray


@dataclass(frozen=True)
class Photo:
    """One labelled image of the folder."""

    label: str
    split: str
    path: Path


@dataclass(frozen=True)
class Set:
    """Decoded images: `pixels` (n, side, side, 3) uint8 RGB, `truth` (n,) int64 in label order."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]


def read(folder: Path, column: str | None) -> tuple[list[Photo], str]:
    """Read `labels.csv`; a row whose image column is empty is left out.

    Returns: the photos in file order, and the column they come from: *column*, else `squashed`,
    else `image`.
    Raises: KeyError where a needed column is missing.
    """
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = column or ("squashed" if "squashed" in rows[0] else "image")
    photos = [
        Photo(row["label"], row["split"], folder / row[chosen]) for row in rows if row[chosen]
    ]
    return photos, chosen


def labels(photos: list[Photo]) -> list[str]:
    """Labels in the order of their first appearance; this is the order of the outputs."""
    return list(dict.fromkeys(photo.label for photo in photos))


def decode(photos: list[Photo], order: list[str], side_px: int) -> Set:
    """Decode *photos* exactly as a request is decoded, the whole frame squashed to a square."""
    pixels = np.empty((len(photos), side_px, side_px, 3), np.uint8)
    for place, photo in enumerate(photos):
        pixels[place] = image.decode(photo.path.read_bytes(), side_px, "squash")[0]
    return Set(pixels, np.array([order.index(photo.label) for photo in photos], np.int64))


def flips(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The four mirrorings of (n, side, side, 3): a lesion has no up and no left."""
    yield pixels
    yield pixels[:, :, ::-1]
    yield pixels[:, ::-1]
    yield pixels[:, ::-1, ::-1]
