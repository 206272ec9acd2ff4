"""Metrics compared with values computed by hand."""

import math

import numpy as np
import pytest
from macule.convert.evaluation import metrics

LABELS = ["a", "b"]


def test_auc_counts_ties_half() -> None:
    """Of four pairs three are ordered correctly and one is tied: 3.5 of 4."""
    scores = np.array([0.9, 0.4, 0.4, 0.1])
    positive = np.array([True, False, True, False])

    assert metrics.auc(scores, positive) == pytest.approx(3.5 / 4)


def test_auc_of_one_class_is_nan() -> None:
    """Without negatives there is no pair to compare."""
    assert math.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_softmax_survives_large_logits() -> None:
    """A logit of a thousand neither overflows nor changes the sum of 1."""
    probabilities = metrics.softmax(np.array([[1000.0, 999.0], [0.0, 0.0]]))

    assert probabilities[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])


def test_balanced_accuracy_weights_classes_equally() -> None:
    """Three of three and none of one is 75 % accuracy and 50 % balanced accuracy."""
    logits = np.array([[1.0, 0.0]] * 4)

    figures = metrics.summarise(logits, np.array([0, 0, 0, 1]), LABELS, metrics.softmax(logits))

    assert figures["accuracy"] == 0.75
    assert figures["balanced_accuracy"] == 0.5
    assert figures["classes"]["a"]["specificity"] == 0.0


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    """Four answers at 0.9, half of them correct, have an error of 0.4; correct ones at 1.0, 0."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[1.0, 0.0]] * 4)
    truth = np.array([0, 0, 1, 1, 0, 0, 0, 0])

    assert metrics.calibration_error(probabilities, truth) == pytest.approx(0.4 / 2)


def test_temperature_corrects_scaled_logits() -> None:
    """Logits multiplied by 3 get a temperature 3 times higher."""
    random = np.random.default_rng(7)
    logits = random.normal(size=(400, 3))
    truth = np.array([random.choice(3, p=row) for row in metrics.softmax(logits)])

    assert metrics.fit_temperature(3 * logits, truth) == pytest.approx(
        3 * metrics.fit_temperature(logits, truth), rel=1e-4
    )


def test_sensitivity_at_a_specificity_keeps_that_share_of_negatives_below() -> None:
    """Of negatives 1 to 5 four are at or below 4, so positives above 4 count."""
    scores = np.array([1.0, 2, 3, 4, 5, 3.5, 4.5, 6])
    positive = np.array([False] * 5 + [True] * 3)

    assert metrics.sensitivity_at(scores, positive, 0.8) == pytest.approx(2 / 3)


def test_wilson_interval_of_half_of_ten() -> None:
    """5 of 10 gives 24 to 76 %."""
    assert metrics.wilson(0.5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-4)


def test_compare_counts_changed_answers() -> None:
    """One of two answers changes, by 0.2 in each of its probabilities."""
    before, after = np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.4, 0.6], [0.9, 0.1]])

    figures = metrics.compare_probabilities(after, before)

    assert figures["n"] == 2
    assert figures["top1_agreement"] == 0.5
    assert figures["max_change"] == pytest.approx(0.2)
    assert figures["mean_change"] == pytest.approx(0.1)


def test_calibration_error_by_chance_shrinks_with_images() -> None:
    """A perfectly calibrated model shows an error on few images, and hardly any on many."""
    shares = np.random.default_rng(0).dirichlet((1, 1, 1), 20_000)

    few, many = (metrics.calibration_chance(shares[:n], 40) for n in (150, 20_000))

    assert 0.04 < few < 0.1
    assert many < 0.01
