"""What cross-validation says: the values to publish, and the figures of images left out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import calibration, metrics
from macule.convert.evaluation.calibration import Calibration
from macule.inference import classification
from macule.registry.model_card import Card
from macule.train import domains
from macule.train.recipe import HeldOut, fit_bias_shift

Ints = NDArray[np.int64]


class Fitted(NamedTuple):
    """What is fitted on answers for images left out; `thresholds` by their key of the card."""

    calibration: Calibration
    thresholds: dict[str, float]

    def card(self, template: Card) -> Card:
        """Return *template* with these thresholds."""
        return template._replace(
            inconclusive_below=self.thresholds["inconclusive"],
            unfamiliar_above=self.thresholds["unfamiliar"],
            not_skin_above=self.thresholds["not_skin"],
            not_dermoscopic_above=self.thresholds.get("not_dermoscopic"),
        )


class Judged(NamedTuple):
    """The answers for images, each with values that were fitted on the other folds.

    `probabilities` (n, classes); `decisions` and `reasons` (n,) of `classification.Verdict`, a
    missing reason is empty; `in_set`: by coverage in percent (n, classes).
    """

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.str_]
    reasons: NDArray[np.str_]
    in_set: dict[str, NDArray[np.bool_]]


def fit(answers: HeldOut, truth: Ints) -> Fitted:
    """Fit temperature, bias shift, thresholds and prediction sets."""
    fitted = calibration.fit(answers.logits, truth, fit_bias_shift)
    limits = domains.thresholds(answers.scores)
    return Fitted(fitted, {"inconclusive": fitted.inconclusive, **limits})


def judge(template: Card, answers: HeldOut, truth: Ints, fold_of: Ints) -> Judged:
    """Judge the images of each fold with values fitted on all other folds."""
    classes = answers.logits.shape[1]
    found = Judged(
        np.zeros((len(truth), classes)),
        np.full(len(truth), "", "U16"),
        np.full(len(truth), "", "U16"),
        {
            str(percent): np.zeros((len(truth), classes), bool)
            for percent in calibration.SET_COVERAGES
        },
    )
    for fold in np.unique(fold_of):
        places = np.flatnonzero(fold_of == fold)
        fitted = fit(answers.select(fold_of != fold), truth[fold_of != fold])
        shares = fitted.calibration.probabilities(answers.logits[places])
        found.probabilities[places] = shares
        for percent, least in fitted.calibration.prediction_sets.items():
            found.in_set[percent][places] = calibration.prediction_sets(shares, least)
        card = fitted.card(template)
        for place, top in zip(places, shares.max(axis=1), strict=True):
            distance, score = [*answers.scores[place].tolist(), None][:2]
            verdict = classification.decide(card, top, distance, score)
            found.decisions[place], found.reasons[place] = verdict.decision, verdict.reason or ""
    return found


def figures(judged: Judged, truth: Ints) -> dict[str, Any]:
    """Return the figures of selective prediction, prediction sets and refused images."""
    right = judged.probabilities.argmax(axis=1) == truth
    refused = (judged.decisions == "not_skin") | (judged.reasons == "not_dermoscopic")
    return {
        "guarantee": calibration.selective_guarantee(right, judged.decisions == "classified"),
        "prediction_sets": calibration.set_metrics(judged.in_set, truth),
        "refused": metrics.proportion(refused),
    }
