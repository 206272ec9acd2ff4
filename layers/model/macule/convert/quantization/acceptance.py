"""What a candidate must keep of the original to be served in its place."""

import math
from typing import NamedTuple

from macule.convert.quantization.comparison import Comparison

TOLERANCE = 1e-9  # a figure at the gate passes, whatever floats make of its last digit


class Gate(NamedTuple):
    """The least agreement, and the most change and loss; shares from 0 to 1.

    `lost` holds for balanced accuracy and for each class's AUC. `limit_mb` is the memory of a bare
    process with the file loaded and run; the service around it needs more.
    """

    agreement: float = 0.98
    mean_change: float = 0.02
    lost: float = 0.01
    limit_mb: float | None = None


def failed_gates(gate: Gate, proof: Comparison) -> list[str]:
    """Name each gate that *proof* fails, with both figures; an empty list passes."""
    failed = []
    if proof.agreement < gate.agreement - TOLERANCE:
        failed.append(
            f"top-1 agreement is {proof.agreement:.1%}; at least {gate.agreement:.1%} is asked"
        )
    if not proof.mean_change <= gate.mean_change + TOLERANCE:
        failed.append(
            f"a probability changes by {proof.mean_change:.4f} on average;"
            f" at most {gate.mean_change:.4f} is allowed"
        )
    for figure, loss in losses(proof).items():
        if loss > gate.lost + TOLERANCE:
            failed.append(f"{figure} loses {loss:.4f}; at most {gate.lost:.4f} is allowed")
    if gate.limit_mb is not None and proof.peak_mb > gate.limit_mb:
        failed.append(
            f"a process peaks at {proof.peak_mb:.1f} MB; the limit is {gate.limit_mb:.1f} MB"
        )
    return failed


def losses(proof: Comparison) -> dict[str, float]:
    """How much of each labelled figure is lost, by its name; none for a class without images."""
    if proof.labelled is None or proof.original is None:
        return {}
    before, after = proof.original, proof.labelled
    lost = {"balanced accuracy": before.balanced_accuracy - after.balanced_accuracy}
    for label, auc in before.auc.items():
        lost[f"the AUC of {label}"] = auc - after.auc[label]
    return {figure: loss for figure, loss in lost.items() if not math.isnan(loss)}
