"""Checks that the output of a model is a probability distribution over labels."""

import numpy as np
from numpy.typing import NDArray

from macule.convert.errors import BadInput
from macule.convert.evaluation.metrics import softmax
from macule.convert.graph import frozen_graph

REGRESSION_LOSSES = ("mse", "mae", "meansquared", "meanabsolute", "huber", "logcosh", "mape")


def count_classes(name: str, kind: str, units: int, loss: str) -> int:
    """Return the number of labels of an output; 2 for one sigmoid.

    Raises: BadInput if the output is not a distribution over classes.
    """
    if any(mark in loss for mark in REGRESSION_LOSSES):
        raise BadInput(
            f"{name} was trained to predict numbers (its loss is {loss}), not classes: use a "
            "classifier."
        )
    is_sigmoid = kind == "sigmoid"
    is_sigmoid |= kind == "linear" and loss.startswith("binarycrossentropy")
    if units == 1:
        if is_sigmoid:
            return 2
        if kind == "softmax":
            raise BadInput(
                f"{name} ends with a softmax of one unit, which is always 1: train it with one "
                "sigmoid, or with one unit per class."
            )
        raise BadInput(
            f"{name} returns one number that is not a probability (regression?): end it with "
            "a sigmoid, or with a softmax over the classes."
        )
    if is_sigmoid:
        raise BadInput(
            f"{name} has {units} independent sigmoids, which do not sum to 1: end it with a "
            "softmax if each image has one label; several labels per image are not supported."
        )
    if units < 2:
        raise BadInput(f"{name} does not have one output per class: use a classifier.")
    return units


def check_weights(name: str, loaded: frozen_graph.LoadedGraph) -> None:
    """Reject weights that are NaN or infinite."""
    tensors = list(frozen_graph.weight_tensors(loaded).values())
    values = frozen_graph.constant_values(loaded, tensors)
    if not all(np.isfinite(weights).all() for weights in values):
        raise BadInput(
            f"{name} has weights that are not numbers (NaN or infinite), probably because the "
            "training diverged: use an earlier checkpoint."
        )


def check_distributions(name: str, predictions: NDArray[np.float32]) -> None:
    """Reject predictions (n, classes) that are not distributions."""
    if not np.isfinite(predictions).all():
        raise BadInput(f"{name} returns values that are not numbers: use an earlier checkpoint.")
    if not is_distribution(predictions, 0.02):
        raise BadInput(
            f"{name} returns values that do not sum to 1, so they are not probabilities: end it "
            "with a softmax over the classes."
        )


def is_distribution(predictions: NDArray[np.float32], tolerance: float = 1e-4) -> bool:
    """Return whether all rows are non-negative and sum to 1."""
    return bool(
        (predictions >= -tolerance).all()
        and (np.abs(predictions.sum(axis=1) - 1) <= tolerance).all()
    )


def to_probabilities(predictions: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Convert raw outputs (n, units) to probabilities (n, classes)."""
    if predictions.shape[1] == 1:
        second = predictions if kind == "sigmoid" else 1 / (1 + np.exp(-predictions))
        return np.asarray(np.concatenate([1 - second, second], axis=1), np.float32)
    if kind in ("linear", "logits"):
        return np.asarray(softmax(predictions), np.float32)
    return predictions
