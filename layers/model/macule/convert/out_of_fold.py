"""Calibration of a converted model on labelled images, and the figures of images left out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import calibration, folds, metrics
from macule.convert.evaluation.calibration import Calibration, HeldOut
from macule.convert.evaluation.dataset import Photo
from macule.convert.graph import out_of_distribution

MIN_LABELS = 50  # with fewer labelled images, a fitted temperature is noise


class Calibrated(NamedTuple):
    """A calibration, and what it does to images that it was not fitted on.

    `fitted`: on all images, for the card. `held`: the images of each fold, with values fitted on
    the other folds. `classified` (n,): their decision. `grouped_by`: a column of `labels.csv`, or
    "image".
    """

    fitted: Calibration
    held: HeldOut
    classified: NDArray[np.bool_]
    grouped_by: str

    def figures(self, truth: metrics.Ints) -> dict[str, Any]:
        """Return the figures of the card that depend on fitted values, all of them out of fold."""
        right = self.held.probabilities.argmax(axis=1) == truth
        return {
            "folds": folds.FOLDS,
            "grouped_by": self.grouped_by,
            "guarantee": calibration.selective_guarantee(right, self.classified),
            "prediction_sets": calibration.set_metrics(self.held.in_set, truth),
        }


def calibrate(
    logits: metrics.Floats,
    truth: NDArray[np.int64],
    distances: NDArray[np.float32] | None,
    photos: Sequence[Photo],
) -> Calibrated | None:
    """Calibrate a model with the answers for labelled images; None if there are too few.

    Args:
      logits: (n, classes).
      distances: OOD scores (n,), if the model has them.
    """
    grouped_by, names = folds.name_groups(photos)
    groups = folds.number_groups(names)
    if len(truth) < MIN_LABELS or len(np.unique(groups)) < folds.FOLDS:
        return None
    fold_of = folds.assign_folds(truth, groups, folds.FOLDS)
    held = calibration.cross_fit(logits, truth, fold_of)
    classified = held.answered.copy()
    if distances is not None:
        classified &= familiar(distances, fold_of)
    return Calibrated(calibration.fit(logits, truth), held, classified, grouped_by)


def familiar(distances: NDArray[np.float32], fold_of: metrics.Ints) -> NDArray[np.bool_]:
    """Return whether each image (n,) is within the distance that is fitted on the other folds."""
    within = np.zeros(len(distances), bool)
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        limits = out_of_distribution.score_thresholds(distances[~inside])
        within[inside] = distances[inside] <= limits["unfamiliar"]
    return within
