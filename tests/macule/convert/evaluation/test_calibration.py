"""Calibration: coverage of prediction sets, the guarantee, and folds that do not see themselves."""

import numpy as np
import pytest
from macule.convert.evaluation import calibration, metrics
from numpy.typing import NDArray

Drawn = tuple[NDArray[np.float64], NDArray[np.int64]]


def answers(count: int, seed: int, sharpness: float = 1.0) -> Drawn:
    """Draw logits (count, 4) and truths; a sharpness of 1 is perfectly calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 4))
    below = metrics.softmax(logits).cumsum(axis=1)[:, :-1]
    truth = (below < random.random((count, 1))).sum(axis=1)
    return logits * sharpness, truth


def test_temperature_corrects_overconfidence() -> None:
    """Logits that are three times too large get about that temperature, and less error."""
    logits, truth = answers(2000, 1, 3.0)

    fitted = calibration.fit(logits, truth)

    assert fitted.temperature == pytest.approx(3, rel=0.15)
    before = metrics.calibration_error(metrics.softmax(logits), truth)
    assert metrics.calibration_error(fitted.probabilities(logits), truth) < before


def test_the_fixed_share_of_images_is_answered() -> None:
    """The threshold leaves COVERAGE of the images above it."""
    logits, truth = answers(1000, 2)

    fitted = calibration.fit(logits, truth)

    answered = fitted.probabilities(logits).max(axis=1) >= fitted.inconclusive
    assert answered.mean() == pytest.approx(calibration.COVERAGE, abs=0.01)


@pytest.mark.parametrize("percent", calibration.SET_COVERAGES)
def test_sets_hold_the_true_label_as_often_as_promised(percent: int) -> None:
    """Over many small calibration sets, the mean coverage of new images is at least the promise."""
    covered = []
    for seed in range(60):
        shares, truth = answers(240, seed)
        shares, held = metrics.softmax(shares), slice(40, None)
        threshold = calibration.set_threshold(shares[:40], truth[:40], percent)
        member = calibration.prediction_sets(shares[held], threshold)
        covered.append(member[np.arange(200), truth[held]].mean())

    spread = np.std(covered) / len(covered) ** 0.5
    assert np.mean(covered) >= percent / 100 - 3 * spread
    assert np.mean(covered) <= percent / 100 + 1 / 41 + 0.05


def test_too_few_images_promise_every_label() -> None:
    """If no image can be left out of its set, all labels are in."""
    shares, truth = metrics.softmax(answers(8, 1)[0]), answers(8, 1)[1]

    assert calibration.set_threshold(shares, truth, 90) == 0
    assert calibration.prediction_sets(shares, 0.0).all()


def test_sets_grow_with_coverage_and_are_never_empty() -> None:
    """A higher coverage has a lower threshold; the most likely label is always in."""
    logits, truth = answers(300, 5)

    least = list(calibration.fit(logits, truth).prediction_sets.values())

    assert least == sorted(least, reverse=True)
    shares = metrics.softmax(logits)
    member = calibration.prediction_sets(shares, 1.0)
    assert (member.argmax(axis=1) == shares.argmax(axis=1)).all()
    assert (member.sum(axis=1) == 1).all()


def test_the_bound_is_kept_as_often_as_it_says() -> None:
    """Of many samples with a known accuracy, the bound exceeds it in at most one of ten."""
    random, accuracy = np.random.default_rng(6), 0.85
    bounds = []
    for _ in range(400):
        right, answered = random.random(120) < accuracy, random.random(120) < 0.7
        found = calibration.selective_guarantee(right, answered)
        bounds.append(found["accuracy_at_least"])
        assert found["accuracy_at_least"] <= found["accuracy"]

    assert np.mean(np.array(bounds) > accuracy) <= 1 - calibration.CONFIDENCE + 0.03


def test_the_bound_without_an_error_is_exact() -> None:
    """If all n answers are right, the bound is the n-th root of one tenth; without any, it is 0."""
    right, none = np.ones(20, bool), np.zeros(20, bool)

    assert calibration.selective_guarantee(right, right)["accuracy_at_least"] == pytest.approx(
        (1 - calibration.CONFIDENCE) ** (1 / 20)
    )
    assert calibration.selective_guarantee(right, none)["accuracy_at_least"] == 0
    assert calibration.selective_guarantee(none, right)["accuracy_at_least"] == 0


@pytest.mark.parametrize("poisoned", [0, 2])
def test_a_fold_is_calibrated_without_its_own_labels(poisoned: int) -> None:
    """Wrong labels in one fold change the values of the others only."""
    logits, truth = answers(300, 7)
    folds = np.arange(300) % 3
    inside = folds == poisoned
    wrong = np.where(inside, (truth + 1) % 4, truth)

    clean = calibration.cross_fit(logits, truth, folds)
    dirty = calibration.cross_fit(logits, wrong, folds)

    assert (clean.probabilities[inside] == dirty.probabilities[inside]).all()
    assert (clean.answered[inside] == dirty.answered[inside]).all()
    for percent, member in clean.in_set.items():
        assert (member[inside] == dirty.in_set[percent][inside]).all()
    assert (clean.probabilities[~inside] != dirty.probabilities[~inside]).any()


def test_a_shift_is_fitted_without_the_fold_too() -> None:
    """The function that fits a shift never sees the images of the fold that it is for."""
    logits, truth = answers(90, 8)
    folds = np.arange(90) % 3
    seen = []

    def shift(given: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        seen.append(given)
        return np.array([0.0, 1.0, 0.0, 0.0])

    held = calibration.cross_fit(logits, truth, folds, shift)

    for fold, given in enumerate(seen):
        assert (given == logits[folds != fold]).all()
    assert held.probabilities.sum(axis=1) == pytest.approx(np.ones(90))


def test_set_metrics_count_labels_and_hits() -> None:
    """Two of three sets have the true label; they have four labels."""
    member = np.array([[True, False], [True, True], [False, True]])

    found = calibration.set_metrics({"90": member}, np.array([0, 1, 0]))

    assert found["90"]["coverage"] == pytest.approx(2 / 3)
    assert found["90"]["mean_labels"] == pytest.approx(4 / 3)
