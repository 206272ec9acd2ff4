"""Folds: no patient or lesion on both sides, and the labels in equal shares."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from macule.convert.evaluation import folds
from macule.convert.evaluation.dataset import Photo


@given(
    st.lists(st.integers(0, 2), min_size=30, max_size=90),
    st.integers(2, 6),
    st.integers(0, 2**16),
)
def test_folds_keep_groups_together_and_labels_in_equal_shares(
    truth: list[int], count: int, seed: int
) -> None:
    """A group is never split; each fold has its share of each label, within one group."""
    labels = np.array(truth)
    groups = np.arange(len(labels))
    for label in range(3):  # pairs of two lesions
        members = np.flatnonzero(labels == label)
        groups[members[1::4]] = groups[members[0::4][: len(members[1::4])]]

    assigned = folds.assign_folds(labels, groups, count, seed)

    for group in np.unique(groups):
        assert len(set(assigned[groups == group])) == 1
    for label in range(3):
        leaders = np.unique(groups[labels == label])
        shares = np.bincount(assigned[leaders], minlength=count)
        assert shares.max() - shares.min() <= 1


def test_photos_of_a_patient_are_a_group() -> None:
    """Photos with the same entry share a group; one without an entry is alone."""
    patients = ["a", "b", "", "a", ""]
    photos = [Photo(Path(f"{i}.png"), "", "", {"patient": p}) for i, p in enumerate(patients)]

    column, names = folds.name_groups(photos)

    assert column == "patient"
    assert folds.number_groups(names).tolist() == [0, 1, 2, 0, 4]


def test_without_a_column_each_photo_is_a_group() -> None:
    """A folder for each class has no patients."""
    photos = [Photo(Path(f"{i}.png"), "", "") for i in range(3)]

    column, names = folds.name_groups(photos)

    assert column == "image"
    assert folds.number_groups(names).tolist() == [0, 1, 2]
