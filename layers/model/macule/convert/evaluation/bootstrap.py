"""Intervals of figures by the bootstrap, images of one patient or lesion always together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


def intervals(
    figures: Callable[[NDArray[np.int64]], Mapping[str, float]],
    groups: Sequence[str],
    times: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Draw groups with replacement, *times* over, and take the middle 95 % of each figure.

    Args:
      figures: named figures of the images at these places; one may stand there several times.
      groups: the group of each image.

    Returns: [low, high] by name; nan where a figure could be had in no draw.
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
    return {name: percentile_interval(np.asarray(values)) for name, values in drawn.items()}


def percentile_interval(values: NDArray[Any]) -> list[float]:
    """Give the 2.5th and 97.5th percentile of what is a number."""
    known = values[np.isfinite(values)]
    if not len(known):
        return [float("nan")] * 2
    low, high = np.quantile(known, (0.025, 0.975))
    return [float(low), float(high)]
