"""What cross-validation says, from drawn answers."""

import numpy as np
from macule.registry import model_card
from macule.train import cross_validation
from macule.train.recipe import HeldOut, fit_bias_shift
from support.service import ROOT

RANDOM = np.random.default_rng(3)
COUNT, LABELS = 300, 3
TEMPLATE = model_card.read(str(ROOT / "layers/model/macule/weights"))
TRUTH = np.arange(COUNT) % LABELS
FOLD_OF = np.arange(COUNT) // LABELS % 5


def answers() -> HeldOut:
    """Draw answers, most of them right; the last image is not skin, the one before clinical."""
    logits = RANDOM.normal(0, 1, (COUNT, LABELS)) + 2 * np.eye(LABELS)[TRUTH]
    scores = RANDOM.normal([1, -2], 0.1, (COUNT, 2))
    scores[-1, 0], scores[-2, 1] = 99, 99
    floats = [part.astype(np.float32) for part in (logits, scores, logits)]
    return HeldOut(np.arange(COUNT), *floats)


def test_no_image_is_judged_with_its_own_fold() -> None:
    """What the labels of a fold are changes the other folds, and not the fold."""
    given, wrong = answers(), np.where(FOLD_OF == 2, (TRUTH + 1) % LABELS, TRUTH)

    before, after = (
        cross_validation.judge(TEMPLATE, given, truth, FOLD_OF) for truth in (TRUTH, wrong)
    )

    inside = FOLD_OF == 2
    np.testing.assert_array_equal(before.probabilities[inside], after.probabilities[inside])
    np.testing.assert_array_equal(before.decisions[inside], after.decisions[inside])
    assert not np.allclose(before.probabilities[~inside], after.probabilities[~inside])


def test_scores_refuse_photos() -> None:
    """A picture that is not skin and a clinical photo are refused, and counted."""
    judged = cross_validation.judge(TEMPLATE, answers(), TRUTH, FOLD_OF)
    figures = cross_validation.figures(judged, TRUTH)

    assert judged.decisions[-1] == "not_skin"
    assert (judged.decisions[-2], judged.reasons[-2]) == ("inconclusive", "not_dermoscopic")
    assert 2 / COUNT <= figures["refused"] < 0.08
    assert figures["guarantee"]["accuracy_at_least"] < figures["guarantee"]["accuracy"]
    coverages = [figures["prediction_sets"][percent]["coverage"] for percent in ("80", "90", "95")]
    assert coverages == sorted(coverages)


def test_classes_are_balanced() -> None:
    """A bias against the rarer class is found and corrected."""
    random = np.random.default_rng(4)
    truth = np.repeat([0, 1], [300, 100])
    evidence = random.normal(0, 1, 400) + np.where(truth == 1, 1.0, -1.0)
    logits = np.stack([0 * evidence, 2 * evidence - 3], axis=1).astype(np.float32)

    shift = fit_bias_shift(logits, truth)
    named = (logits + shift).argmax(axis=1)

    assert shift[0] == 0
    assert (logits.argmax(axis=1)[truth == 1] == 1).mean() < 0.45
    assert (named[truth == 1] == 1).mean() > 0.7
    assert (named[truth == 0] == 0).mean() > 0.75
