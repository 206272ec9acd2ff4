"""Near-duplicates among photos: one lesion photographed twice, or one photo saved twice."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE = 16
# Of the 256 bits of the hash. Among 2,294 lesions of the ISIC archive this joins all six pairs of
# one lesion, and some lesions with the same vignette, which only makes their group larger.
MAX_DIFFERENT_BITS = 24
SYMMETRIES = 8  # of a square: four rotations, and their mirror images


def group(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Group photos (n, side, side, 3) that look alike, also rotated or mirrored.

    Returns: the group (n,) of each photo, as the place of its first member.
    Source: difference hash, as in the package imagehash.
    """
    gray = [np.asarray(Image.fromarray(photo).convert("L")) for photo in pixels]
    upright = np.stack([_hash(photo) for photo in gray])
    groups = np.arange(len(pixels))
    for turned in zip(*(map(_hash, symmetries(photo)) for photo in gray), strict=True):
        # of signs, the dot product is the number of equal bits minus that of different ones
        alike = upright @ np.stack(turned).T >= HASH_SIDE**2 - 2 * MAX_DIFFERENT_BITS
        for first, second in zip(*np.nonzero(alike), strict=True):
            low, high = sorted((groups[first], groups[second]))
            groups[groups == high] = low
    return np.asarray(groups, np.int64)


def symmetries(photo: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the SYMMETRIES rotations and mirror images of a photo."""
    for turns in range(SYMMETRIES // 2):
        yield np.rot90(photo, turns)
        yield np.rot90(photo, turns)[:, ::-1]


def _hash(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the sign of each brightness step to the right, (HASH_SIDE²,), -1 or 1."""
    small = Image.fromarray(gray).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    steps = np.diff(np.asarray(small, np.float32), axis=1)
    return np.where(steps > 0, 1, -1).astype(np.float32).ravel()
