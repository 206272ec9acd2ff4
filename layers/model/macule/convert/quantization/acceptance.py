"""The gates that a candidate must pass to replace the original."""

import math
from typing import NamedTuple

from macule.convert.quantization.comparison import Comparison

TOLERANCE = 1e-9  # for rounding: a figure at the limit passes


class Gate(NamedTuple):
    """The minimum agreement, and the maximum change and loss, from 0 to 1.

    `lost` applies to the balanced accuracy and to the AUC of each class. `limit_mb` is for a bare
    process with the file loaded; the service needs more.
    """

    agreement: float = 0.98
    mean_change: float = 0.02
    lost: float = 0.01
    limit_mb: float | None = None


def failed_gates(gate: Gate, comparison: Comparison) -> list[str]:
    """List the gates that a candidate fails, with the measured figure and the limit."""
    failed = []
    if comparison.agreement < gate.agreement - TOLERANCE:
        failed.append(
            f"top-1 agreement is {comparison.agreement:.1%};"
            f" at least {gate.agreement:.1%} is required"
        )
    if not comparison.mean_change <= gate.mean_change + TOLERANCE:
        failed.append(
            f"a probability changes by {comparison.mean_change:.4f} on average;"
            f" at most {gate.mean_change:.4f} is allowed"
        )
    for figure, loss in losses(comparison).items():
        if loss > gate.lost + TOLERANCE:
            failed.append(f"{figure} loses {loss:.4f}; at most {gate.lost:.4f} is allowed")
    if gate.limit_mb is not None and comparison.peak_mb > gate.limit_mb:
        failed.append(
            f"a process peaks at {comparison.peak_mb:.1f} MB; the limit is {gate.limit_mb:.1f} MB"
        )
    return failed


def losses(comparison: Comparison) -> dict[str, float]:
    """Return the loss of each metric by name; without classes that have no images."""
    if comparison.labelled is None or comparison.original is None:
        return {}
    before, after = comparison.original, comparison.labelled
    lost = {"balanced accuracy": before.balanced_accuracy - after.balanced_accuracy}
    for label, auc in before.auc.items():
        lost[f"the AUC of {label}"] = auc - after.auc[label]
    return {figure: loss for figure, loss in lost.items() if not math.isnan(loss)}
