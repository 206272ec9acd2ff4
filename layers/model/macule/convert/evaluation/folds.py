"""Folds for cross-fitting: images of a patient or lesion share a fold, labels are spread evenly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation.dataset import Photo

FOLDS = 5
GROUP_COLUMNS = ("patient", "patient_id", "lesion", "lesion_id")  # the first one that exists


def name_groups(photos: Sequence[Photo]) -> tuple[str, list[str]]:
    """Return what groups *photos*, a column of `labels.csv` or "image", and the group of each.

    A photo without an entry in the column is a group of its own.
    """
    column = next(
        (name for name in GROUP_COLUMNS if any(photo.row.get(name) for photo in photos)), ""
    )
    groups = [photo.row.get(column, "") or str(photo.path) for photo in photos]
    return column or "image", groups


def number_groups(names: Sequence[str]) -> NDArray[np.int64]:
    """Return the group (n,) of each image as the place of its first member."""
    _, first, inverse = np.unique(np.asarray(names, str), return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def assign_folds(
    truth: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int = 0
) -> NDArray[np.int64]:
    """Assign each group to a fold; the groups of each label are dealt out in turn.

    Args:
      groups: (n,), each named by the place of its first member.

    Returns: the fold (n,) of each image, 0 to *folds* - 1.
    """
    random = np.random.default_rng(seed)
    leaders = np.unique(groups)
    assigned = np.empty(len(truth), np.int64)
    start = 0
    for label in np.unique(truth):
        members = random.permutation(leaders[truth[leaders] == label])
        for place, leader in enumerate(members, start):
            assigned[groups == leader] = place % folds
        start += len(members)
    return assigned
