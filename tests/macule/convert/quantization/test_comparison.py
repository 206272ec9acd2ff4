"""Comparison of a candidate with its original."""

import subprocess

import numpy as np
import pytest
from macule.convert.evaluation import batch_inference, metrics
from macule.convert.quantization import comparison
from macule.convert.quantization.candidates import Candidate
from macule.convert.quantization.comparison import Comparison
from numpy.typing import NDArray
from support import small_model

TRUTH = np.arange(40) % 3


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float64]:
    """Return the original's probabilities."""
    logits = batch_inference.logits(
        small_model.content(), small_model.pixels(), small_model.SCALING
    )
    return metrics.softmax(logits)


@pytest.fixture(scope="module")
def self_comparison(reference: NDArray[np.float64]) -> Comparison:
    """Compare the original with itself."""
    candidate = Candidate("fp32", "fp32", small_model.content())
    return comparison.compare(
        candidate, reference, small_model.pixels(), small_model.SCALING, TRUTH, small_model.LABELS
    )


def test_the_original_agrees_with_itself(self_comparison: Comparison) -> None:
    """The float file agrees with its own answers and loses nothing."""
    assert (self_comparison.agreement, self_comparison.mean_change, self_comparison.max_change) == (
        1.0,
        0.0,
        0.0,
    )
    assert self_comparison.labelled == self_comparison.original
    assert (self_comparison.images, self_comparison.bytes) == (40, len(small_model.content()))


def test_labelled_figures_match_the_answers(
    self_comparison: Comparison, reference: NDArray[np.float64]
) -> None:
    """Accuracy and each class's AUC follow from the probabilities and the labels."""
    assert self_comparison.labelled is not None
    assert self_comparison.labelled.accuracy == (reference.argmax(axis=1) == TRUTH).mean()
    assert self_comparison.labelled.auc["b"] == metrics.auc(reference[:, 1], TRUTH == 1)


def test_without_labels_there_is_no_accuracy(reference: NDArray[np.float64]) -> None:
    """Agreement needs no labels; accuracy does."""
    candidate = Candidate("fp32", "fp32", small_model.content())

    self_comparison = comparison.compare(
        candidate, reference, small_model.pixels(), small_model.SCALING, None, small_model.LABELS
    )

    assert (self_comparison.labelled, self_comparison.original) == (None, None)
    assert self_comparison.agreement == 1.0


def test_memory_is_that_of_a_bare_process(self_comparison: Comparison) -> None:
    """The peak is that of numpy, the runtime and the file, whatever this process has loaded."""
    ballast = np.ones(30_000_000)

    spent = comparison.measure_cost(small_model.content())

    assert ballast.nbytes > 2 * 100 * 2**20
    assert 20 < spent.peak_mb < 100
    assert set(self_comparison.p50_ms) == {1, 2}
    assert min(self_comparison.load_ms, *self_comparison.p50_ms.values()) > 0


def test_a_hanging_file_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process has a time-out."""
    monkeypatch.setattr(comparison, "PROBE_TIMEOUT_S", 0.01)

    with pytest.raises(subprocess.TimeoutExpired):
        comparison.measure_cost(small_model.content())
