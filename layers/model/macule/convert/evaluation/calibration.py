"""Calibration on held-out images: temperature, threshold, prediction sets; and cross-fitting."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import metrics
from macule.convert.evaluation.metrics import Floats, Ints

# Share of held-out images that get an answer. It is fixed, not fitted: a rule of thumb between
# the accuracy of the answers and their number.
COVERAGE = 0.7
SET_COVERAGES = (80, 90, 95)  # percent, of the prediction sets
CONFIDENCE = 0.9  # of the accuracy that is guaranteed for the answers
Shift = Callable[[Floats, Ints], Floats]


class Calibration(NamedTuple):
    """Values fitted on held-out images.

    `shift` (classes,) is added to the logits, which are then divided by `temperature`. Below the
    top probability `inconclusive` there is no answer. `prediction_sets` maps a coverage in percent
    to the least probability of a label in the set.
    """

    shift: NDArray[np.float32]
    temperature: float
    inconclusive: float
    prediction_sets: dict[str, float]

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return the calibrated probabilities (n, classes) of *logits*."""
        return metrics.softmax(logits + self.shift, self.temperature)


class HeldOut(NamedTuple):
    """Predictions for images, each calibrated without the images of its own fold.

    `probabilities` (n, classes); `answered` (n,): whether the top one reaches the threshold;
    `in_set`: by coverage in percent (n, classes), whether a label is in the prediction set.
    """

    probabilities: NDArray[np.float64]
    answered: NDArray[np.bool_]
    in_set: dict[str, NDArray[np.bool_]]


def fit(logits: Floats, truth: Ints, fit_shift: Shift | None = None) -> Calibration:
    """Fit all values on the *logits* (n, classes) of held-out images."""
    shift = np.zeros(logits.shape[1]) if fit_shift is None else fit_shift(logits, truth)
    temperature = metrics.fit_temperature(logits + shift, truth)
    probabilities = metrics.softmax(logits + shift, temperature)
    return Calibration(
        np.asarray(shift, np.float32),
        round(temperature, 4),
        round(float(np.quantile(probabilities.max(axis=1), 1 - COVERAGE)), 4),
        {str(percent): set_threshold(probabilities, truth, percent) for percent in SET_COVERAGES},
    )


def set_threshold(probabilities: Floats, truth: Ints, percent: int) -> float:
    """Return the least probability of a label in a prediction set.

    The true label of a new image is in its set with a probability of at least *percent*, on average
    over images that are exchangeable with these.
    Source: split-conformal prediction with the LAC score, Sadinle et al. 2019, arXiv 1609.00451.
    """
    true_shares = np.sort(probabilities[np.arange(len(truth)), truth])
    place = math.floor((len(truth) + 1) * (100 - percent) / 100)
    return math.floor(true_shares[place - 1] * 1e4) / 1e4 if place else 0.0


def prediction_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return whether each label (n, classes) is in the set; the most likely one always is."""
    top = probabilities.max(axis=1, keepdims=True)
    return np.asarray((probabilities >= threshold) | (probabilities == top))


def cross_fit(logits: Floats, truth: Ints, folds: Ints, fit_shift: Shift | None = None) -> HeldOut:
    """Calibrate the images of each fold with values fitted on all other folds."""
    probabilities = np.zeros(logits.shape)
    answered = np.zeros(len(truth), bool)
    in_set = {str(percent): np.zeros(logits.shape, bool) for percent in SET_COVERAGES}
    for fold in np.unique(folds):
        held = folds == fold
        fitted = fit(logits[~held], truth[~held], fit_shift)
        shares = probabilities[held] = fitted.probabilities(logits[held])
        answered[held] = shares.max(axis=1) >= fitted.inconclusive
        for percent, threshold in fitted.prediction_sets.items():
            in_set[percent][held] = prediction_sets(shares, threshold)
    return HeldOut(probabilities, answered, in_set)


def selective_guarantee(right: NDArray[np.bool_], answered: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the coverage, the accuracy of the answers, and its lower confidence bound.

    The threshold must not depend on these images.
    Source: the exact binomial interval, Clopper and Pearson 1934.
    """
    from scipy.stats import beta

    count = int(answered.sum())
    correct = int((right & answered).sum())
    bound = float(beta.ppf(1 - CONFIDENCE, correct, count - correct + 1)) if correct else 0.0
    return {
        "n": len(right),
        "coverage": metrics.proportion(answered),
        "accuracy": metrics.proportion(right[answered]),
        "accuracy_at_least": bound,
        "confidence": CONFIDENCE,
    }


def set_metrics(in_set: dict[str, NDArray[np.bool_]], truth: Ints) -> dict[str, dict[str, float]]:
    """Return how often each set has the true label, and its mean number of labels."""
    rows = np.arange(len(truth))
    return {
        percent: {
            "coverage": metrics.proportion(member[rows, truth]),
            "mean_labels": float(member.sum(axis=1).mean()),
        }
        for percent, member in in_set.items()
    }
