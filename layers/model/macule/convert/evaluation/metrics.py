"""Metrics of a classifier, with numpy only."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
BINS = 15  # of the calibration error, of equal width
RESAMPLES = 1000  # of the bootstrap


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits (n, classes) into probabilities (n, classes) that sum to 1."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the ROC AUC of *scores* (n,), ties count half; nan if a class is empty."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / positives / negatives)


def sensitivity(predicted: Ints, truth: Ints, classes: int) -> list[float]:
    """Return the sensitivity of each class; nan for a class without images."""
    return [proportion(predicted[truth == index] == index) for index in range(classes)]


def proportion(holds: NDArray[np.bool_]) -> float:
    """Return the share of True; nan for an empty array."""
    return float(holds.mean()) if holds.size else math.nan


def sensitivity_at(scores: Floats, positive: NDArray[np.bool_], specificity: float) -> float:
    """Return the sensitivity at the lowest threshold with at least *specificity*."""
    negatives = np.sort(scores[~positive])
    if not len(negatives) or not positive.any():
        return math.nan
    threshold = negatives[max(math.ceil(specificity * len(negatives)) - 1, 0)]
    return float((scores[positive] > threshold).mean())


def wilson(share: float, count: int) -> list[float]:
    """Return the 95 % confidence interval of *share* of *count* (Wilson 1927)."""
    if not count:
        return [math.nan, math.nan]
    z = 1.959964
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [(centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)]


def reliability_bins(probabilities: Floats, truth: Ints) -> NDArray[np.float64]:
    """Group top answers by confidence, in BINS of equal width over (0, 1].

    Returns: (4, non-empty bins): middle, mean confidence, accuracy and number of images.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    rows = [
        ((k + 0.5) / BINS, top[place == k].mean(), right[place == k].mean(), (place == k).sum())
        for k in np.unique(place)
    ]
    return np.asarray(rows, np.float64).T


def calibration_error(probabilities: Floats, truth: Ints) -> float:
    """Return the expected calibration error of the top answer."""
    _, top, right, counts = reliability_bins(probabilities, truth)
    return float((np.abs(top - right) * counts).sum() / counts.sum())


def calibration_chance(probabilities: Floats, times: int = 400) -> float:
    """Return the mean calibration error of a perfectly calibrated model with these probabilities.

    With few images per bin, this error is above 0; a measured error below it is not significant.
    The truth is sampled from the probabilities, *times* times.
    """
    random, below = np.random.default_rng(0), probabilities.cumsum(axis=1)[:, :-1]
    drawn = ((below < random.random((len(below), 1))).sum(axis=1) for _ in range(times))
    return float(np.mean([calibration_error(probabilities, truth) for truth in drawn]))


def log_loss(probabilities: Floats, truth: Ints) -> float:
    """Return the mean negative log-likelihood in nats."""
    chosen = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Find the temperature in 0.05-20 with the lowest log loss, by golden-section search.

    The loss is convex in 1/temperature, so it has one minimum.
    Source: Guo et al. 2017, arXiv 1706.04599.
    """

    def loss(logarithm: float) -> float:
        return log_loss(softmax(logits, math.exp(logarithm)), truth)

    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def compare_probabilities(probabilities: Floats, reference: Floats) -> dict[str, float]:
    """Compare *probabilities* (n, classes) with those of a reference model."""
    change = np.abs(probabilities - reference)
    same = probabilities.argmax(axis=1) == reference.argmax(axis=1)
    return {
        "n": len(same),
        "top1_agreement": float(same.mean()),
        "mean_change": float(change.mean()),
        "max_change": float(change.max()),
    }


def nan_mean(values: list[float]) -> float:
    """Return the mean without nan; nan if there is no number."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def confusion_matrix(predicted: Ints, truth: Ints, classes: int) -> NDArray[np.int64]:
    """Return the counts (classes, classes): rows are true classes, columns are answers."""
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def risk_coverage(probabilities: Floats, truth: Ints) -> list[tuple[float, float]]:
    """Return coverage and risk for all thresholds, the highest confidence first."""
    top, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != truth
    order = np.argsort(-top, kind="stable")
    counts = np.arange(1, len(top) + 1)
    share = np.cumsum(wrong[order]) / counts
    ends = np.append(top[order][1:] != top[order][:-1], True)
    return [(float(c / len(top)), float(s)) for c, s in zip(counts[ends], share[ends], strict=True)]


def class_metrics(probabilities: Floats, truth: Ints) -> list[dict[str, float]]:
    """Return the one-vs-rest metrics of each class; nan if a side has no images."""
    predicted = probabilities.argmax(axis=1)
    found = []
    for index, scores in enumerate(probabilities.T):
        positive, named = truth == index, predicted == index
        found.append(
            {
                "auc": auc(scores, positive),
                "sensitivity": proportion(named[positive]),
                "specificity": proportion(~named[~positive]),
                "sensitivity_at_80_specificity": sensitivity_at(scores, positive, 0.8),
            }
        )
    return found


def summarise(
    logits: Floats, truth: Ints, labels: list[str], probabilities: Floats
) -> dict[str, Any]:
    """Return all metrics of a model on one set of images, for JSON.

    `ece_before` is that of the *logits* (n, classes), with temperature 1.

    Args:
      probabilities: (n, classes), calibrated without these images.
    """
    uncalibrated = softmax(logits)
    counts = np.bincount(truth, minlength=len(labels)).tolist()
    rows = class_metrics(probabilities, truth)
    return {
        "n": len(truth),
        "accuracy": proportion(probabilities.argmax(axis=1) == truth),
        "balanced_accuracy": nan_mean([row["sensitivity"] for row in rows]),
        "mean_auc": nan_mean([row["auc"] for row in rows]),
        "ece_bins": BINS,
        "ece_before": calibration_error(uncalibrated, truth),
        "ece_after": calibration_error(probabilities, truth),
        "log_loss_before": log_loss(uncalibrated, truth),
        "log_loss_after": log_loss(probabilities, truth),
        "classes": {
            label: {"n": n, **row, "sensitivity_95": wilson(row["sensitivity"], n)}
            for label, n, row in zip(labels, counts, rows, strict=True)
        },
    }


def bootstrap_intervals(
    figures: Callable[[NDArray[np.int64]], Mapping[str, float]],
    groups: Sequence[str],
    times: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Resample groups with replacement, *times* times, and return the 95 % interval of each metric.

    The images of one patient or lesion are a group, as they are not independent.

    Args:
      figures: returns the metrics of the images at these indices, which can repeat.
      groups: the group of each image.

    Returns: [low, high] by name; nan if a metric is never defined.
    Source: the percentile bootstrap, Efron 1979.
    """
    _, group = np.unique(np.asarray(groups, str), return_inverse=True)
    members = [np.flatnonzero(group == index) for index in range(int(group.max()) + 1)]
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(times):
        chosen = random.integers(0, len(members), len(members))
        for name, value in figures(np.concatenate([members[index] for index in chosen])).items():
            drawn.setdefault(name, []).append(value)
    bounds = {}
    for name, values in drawn.items():
        finite = np.asarray(values)[np.isfinite(values)]
        bounds[name] = (
            np.quantile(finite, (0.025, 0.975)).tolist() if len(finite) else [math.nan] * 2
        )
    return bounds
