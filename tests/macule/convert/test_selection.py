"""Acceptance of candidates, and the reasons for a rejection."""

import math

import pytest
from macule.convert import selection
from macule.convert.quantization.comparison import Comparison, LabelMetrics
from macule.convert.selection import Gate

BEFORE = LabelMetrics(0.8, 0.75, {"nevus": 0.9, "melanoma": 0.85})
PROOF = Comparison(
    name="int8",
    precision="int8",
    bytes=4_000_000,
    images=100,
    agreement=0.99,
    mean_change=0.01,
    max_change=0.2,
    labelled=BEFORE,
    original=BEFORE,
    load_ms=6.0,
    p50_ms={1: 5.0, 2: 3.0},
    peak_mb=57.0,
)


def test_figures_at_the_limit_are_accepted() -> None:
    """The default limits themselves are accepted."""
    after = BEFORE._replace(balanced_accuracy=0.74, auc={"nevus": 0.89, "melanoma": 0.86})
    proof = PROOF._replace(agreement=0.98, mean_change=0.02, labelled=after)

    assert selection.failed_gates(Gate(limit_mb=57.0), proof) == []


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({"agreement": 0.95}, ("95.0%", "98.0%")),
        ({"mean_change": 0.0311}, ("0.0311", "0.0200")),
        ({"labelled": BEFORE._replace(balanced_accuracy=0.7)}, ("balanced", "0.0500", "0.0100")),
        (
            {"labelled": BEFORE._replace(auc={"nevus": 0.9, "melanoma": 0.8})},
            ("melanoma", "0.0500", "0.0100"),
        ),
        ({"peak_mb": 61.25}, ("61.2 MB", "60.0 MB")),
    ],
)
def test_each_limit_names_both_figures(
    changed: dict[str, object], figures: tuple[str, ...]
) -> None:
    """A rejected candidate names the limit, its own figure and the allowed one."""
    (message,) = selection.failed_gates(Gate(limit_mb=60.0), PROOF._replace(**changed))

    assert all(figure in message for figure in figures)


def test_every_failure_is_reported() -> None:
    """A candidate that fails two limits reports both."""
    proof = PROOF._replace(agreement=0.5, mean_change=0.3)

    assert len(selection.failed_gates(Gate(), proof)) == 2


def test_nan_figures_fail() -> None:
    """A change that is nan fails."""
    assert selection.failed_gates(Gate(), PROOF._replace(mean_change=math.nan))


def test_a_class_without_images_is_not_checked() -> None:
    """An AUC that was nan before and is nan now passes."""
    unseen = BEFORE._replace(auc={"nevus": math.nan, "melanoma": 0.85})

    assert selection.failed_gates(Gate(), PROOF._replace(original=unseen, labelled=unseen)) == []
