"""Folders of images, decoded as in production."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.progress import Progress
from macule.errors import Macule
from macule.inference import decoding

TABLE = "labels.csv"
COLUMNS = ("image", "file", "filename", "path", "squashed", "cropped")
EXTENSIONS = tuple(
    ".jpg .jpeg .png .webp .gif .bmp .tif .tiff .heic .heif .avif .jp2".split()  # noqa: SIM905
)


class Photo(NamedTuple):
    """One image of a folder; `label` and `split` are empty if unknown.

    `row` is its row of `labels.csv`, with all columns.
    """

    path: Path
    label: str
    split: str
    row: Mapping[str, str] = {}


class Images(NamedTuple):
    """Decoded images: `pixels` (n, height, width, 3) uint8 RGB; `truth` (n,) int64 or None.

    `photos`: where they are from; none for generated images.
    """

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64] | None
    broken: int
    photos: Sequence[Photo] = ()


def list_photos(folder: Path, column: str | None = None) -> list[Photo]:
    """List the images of a folder, with labels from `labels.csv` or the names of its subfolders.

    Raises: BadInput if there are no images, or the table lacks a column.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder.")
    if (folder / TABLE).is_file():
        return _read_table(folder, column)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise BadInput(f"{folder} contains no images ({', '.join(EXTENSIONS)}).")
    classes = [path.relative_to(folder).parts[:-1] for path in files]
    return [
        Photo(path, parts[0] if parts else "", "")
        for path, parts in zip(files, classes, strict=True)
    ]


def sample_photos(photos: Sequence[Photo], splits: Sequence[str], limit: int) -> list[Photo]:
    """Sample at most *limit* photos, from *splits* if the folder has them."""
    wanted = [photo for photo in photos if photo.split in splits] or list(photos)
    order = np.random.default_rng(0).permutation(len(wanted))[:limit]
    return [wanted[place] for place in sorted(order)]


def decode_photos(
    photos: Sequence[Photo],
    labels: Sequence[str],
    side_px: tuple[int, int],
    resize: str,
    progress: Progress,
    what: str,
) -> Images:
    """Decode *photos* as in production; files that cannot be decoded are counted as `broken`.

    Raises: BadInput if none can be decoded, or a label is not one of *labels*.
    """
    unknown = sorted({photo.label for photo in photos if photo.label} - set(labels))
    if unknown:
        raise other_labels(unknown, labels)
    pixels, truth, kept = [], [], []
    for photo in progress.track(photos, len(photos), what):
        decoded = decode_photo(photo, side_px, resize)
        if decoded is None:
            continue
        pixels.append(decoded)
        truth.append(labels.index(photo.label) if photo.label else -1)
        kept.append(photo)
    if not pixels:
        raise BadInput(f"None of the {len(photos)} images can be decoded.")
    known = np.array(truth, np.int64)
    broken = len(photos) - len(pixels)
    return Images(np.stack(pixels), known if (known >= 0).all() else None, broken, kept)


def other_labels(found: Sequence[str], labels: Sequence[str]) -> BadInput:
    """Return the error for images with the labels *found*, which the model does not have."""
    return BadInput(
        f"The labels of the images are {', '.join(found[:5])}, those of the model "
        f"{', '.join(labels[:8])}: name the folders or rows like the labels."
    )


def decode_photo(photo: Photo, side_px: tuple[int, int], resize: str) -> NDArray[np.uint8] | None:
    """Decode one photo to (height, width, 3) as in production; None if it cannot be decoded."""
    try:
        return np.asarray(decoding.decode(photo.path.read_bytes(), side_px, resize).picture)
    except (Macule, OSError):
        return None


def synthetic_images(side_px: tuple[int, int], count: int = 32) -> NDArray[np.uint8]:
    """Generate images with smooth skin tones, a darker spot and noise.

    They set the int8 ranges if no images are given, but say nothing about the accuracy.
    Returns: (count, height, width, 3), uint8.
    """
    from PIL.Image import Resampling, fromarray

    rng, (height, width) = np.random.default_rng(0), side_px
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    pictures = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        tone = np.asarray(fromarray(coarse).resize((width, height), Resampling.BICUBIC), np.float32)
        base = tone * 0.25 + rng.uniform((120, 80, 60), (235, 190, 170))
        radius = np.hypot(x - rng.uniform(-0.4, 0.4), (y - rng.uniform(-0.4, 0.4)) * 1.3)
        spot = 1 / (1 + np.exp((radius - rng.uniform(0.1, 0.7)) * 25))
        picture = base * (1 - rng.uniform(0.2, 0.8) * spot[..., None])
        pictures.append(picture + rng.normal(0, rng.uniform(1, 12), picture.shape))
    return np.asarray(np.clip(np.stack(pictures), 0, 255), np.uint8)


def _read_table(folder: Path, column: str | None) -> list[Photo]:
    """Read `labels.csv`; rows without an image are skipped."""
    with (folder / TABLE).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    chosen = column or next((name for name in COLUMNS if name in columns), "")
    if "label" not in columns or chosen not in columns:
        raise BadInput(
            f"{TABLE} has the columns {', '.join(columns) or 'none'}; it needs `label` and one of "
            f"{', '.join(COLUMNS)}."
        )
    return [
        Photo(folder / row[chosen], row["label"], row.get("split") or "", row)
        for row in rows
        if row[chosen]
    ]
