"""Whether a model's output is a distribution over labels, by its form and by its numbers."""

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import ConversionError
from macule.convert.evaluation.metrics import softmax
from macule.convert.graph import frozen_graph

REGRESSION_LOSSES = ("mse", "mae", "meansquared", "meanabsolute", "huber", "logcosh", "mape")


def count_classes(name: str, kind: str, units: int, loss: str) -> int:
    """Number of labels of an output; 2 for one sigmoid.

    Raises: ConversionError where the output is no distribution over classes.
    """
    if any(mark in loss for mark in REGRESSION_LOSSES):
        raise ConversionError(
            f"{name} was trained to predict numbers (its loss is {loss}), not classes: give a "
            "classifier."
        )
    if units == 1:
        if kind == "sigmoid" or (kind == "linear" and loss.startswith("binarycrossentropy")):
            return 2
        if kind == "softmax":
            raise ConversionError(
                f"{name} ends in a softmax of one unit, which is always 1: train it with one "
                "sigmoid or with a unit per class."
            )
        raise ConversionError(
            f"{name} answers with one number that is no probability (regression?): end it with "
            "a sigmoid, or with a softmax over the classes."
        )
    if kind == "sigmoid" or (kind == "linear" and loss.startswith("binarycrossentropy")):
        raise ConversionError(
            f"{name} has {units} independent sigmoids, which do not sum to 1: end it with a "
            "softmax if an image has one label, for several labels it cannot be served."
        )
    if units < 2:
        raise ConversionError(f"{name} has no output per class: give a classifier.")
    return units


def check_weights(name: str, loaded: frozen_graph.LoadedGraph) -> None:
    """Refuse weights that are no numbers."""
    kept = list(frozen_graph.weight_tensors(loaded).values())
    if not all(
        np.isfinite(weights).all() for weights in frozen_graph.constant_values(loaded, kept)
    ):
        raise ConversionError(
            f"{name} has weights that are not numbers (NaN or infinite), as a training that broke "
            "down leaves them: use an earlier checkpoint."
        )


def check_distributions(name: str, answer: NDArray[np.float32]) -> None:
    """Refuse answers (n, classes) that are no distributions."""
    if not np.isfinite(answer).all():
        raise ConversionError(
            f"{name} answers with values that are not numbers: use an earlier checkpoint."
        )
    if not is_distribution(answer, 0.02):
        raise ConversionError(
            f"{name} gives values that do not sum to 1, so they are no probabilities: end it with "
            "a softmax over the classes."
        )


def is_distribution(answer: NDArray[np.float32], slack: float = 1e-4) -> bool:
    """Tell whether every row is not negative and sums to 1."""
    return bool((answer >= -slack).all() and (np.abs(answer.sum(axis=1) - 1) <= slack).all())


def to_probabilities(answer: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Turn raw outputs (n, units) into probabilities (n, classes)."""
    if answer.shape[1] == 1:
        second = answer if kind == "sigmoid" else 1 / (1 + np.exp(-answer))
        return np.asarray(np.concatenate([1 - second, second], axis=1), np.float32)
    return np.asarray(softmax(answer), np.float32) if kind in ("linear", "logits") else answer
