"""Calibration of a converted model: what is fitted is reported for images left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from macule.convert import out_of_fold
from macule.convert.evaluation import calibration, folds
from macule.convert.evaluation.dataset import Photo


def labelled(count: int, patients: int) -> tuple[Any, Any, Any, list[Photo]]:
    """Draw logits, truth and distances of *count* photos of *patients*."""
    random = np.random.default_rng(4)
    truth = np.arange(count) % 3
    logits = random.normal(0, 1, (count, 3)) + 2 * np.eye(3)[truth]
    rows = [{"patient": str(place % patients)} for place in range(count)]
    photos = [Photo(Path(f"{i}.png"), str(truth[i]), "", row) for i, row in enumerate(rows)]
    return logits, truth, random.chisquare(20, count).astype(np.float32) / 20, photos


def test_the_card_has_values_of_all_images() -> None:
    """Temperature, threshold and sets are those of a fit on everything."""
    logits, truth, distances, photos = labelled(120, 40)

    found = out_of_fold.calibrate(logits, truth, distances, photos)

    assert found is not None
    expected = calibration.fit(logits, truth)
    assert found.fitted.temperature == expected.temperature
    assert found.fitted.prediction_sets == expected.prediction_sets
    assert found.grouped_by == "patient"


def test_unfamiliar_images_are_not_answered() -> None:
    """With distances fewer images are classified, and never one that the threshold rejects."""
    logits, truth, distances, photos = labelled(120, 40)

    with_distances = out_of_fold.calibrate(logits, truth, distances, photos)
    without = out_of_fold.calibrate(logits, truth, None, photos)

    assert with_distances is not None
    assert without is not None
    assert (without.classified == without.held.answered).all()
    assert with_distances.classified.sum() < without.classified.sum()
    assert not with_distances.classified[distances.argmax()]


def test_the_figures_are_in_order() -> None:
    """The bound is below the accuracy, and every set of the card has its coverage."""
    logits, truth, distances, photos = labelled(120, 40)
    found = out_of_fold.calibrate(logits, truth, distances, photos)

    assert found is not None
    figures = found.figures(truth)
    promised = figures["guarantee"]
    assert 0 < promised["accuracy_at_least"] <= promised["accuracy"] <= 1
    assert promised["coverage"] == found.classified.mean()
    assert figures["prediction_sets"].keys() == found.fitted.prediction_sets.keys()


@pytest.mark.parametrize(
    ("count", "patients"), [(out_of_fold.MIN_LABELS - 1, 40), (200, folds.FOLDS - 1)]
)
def test_what_cannot_be_measured_is_not_fitted(count: int, patients: int) -> None:
    """Too few images, or too few patients for the folds: no calibration."""
    assert out_of_fold.calibrate(*labelled(count, patients)) is None
