"""Bootstrap intervals; the images of one patient or lesion are resampled together."""

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
    """Resample groups with replacement, *times* times, and return the 95 % interval of each metric.

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
    return {name: percentile_interval(np.asarray(values)) for name, values in drawn.items()}


def percentile_interval(values: NDArray[Any]) -> list[float]:
    """Return the 2.5th and 97.5th percentile of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return [float("nan")] * 2
    low, high = np.quantile(finite, (0.025, 0.975))
    return [float(low), float(high)]
