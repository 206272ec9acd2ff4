"""Selection of a precision: the smallest candidate that passes all gates replaces the original."""

import argparse
import math
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.conversion import CandidateResult, ComparisonImages
from macule.convert.errors import BadInput
from macule.convert.export import Exported
from macule.convert.progress import Progress
from macule.convert.quantization import candidates, comparison
from macule.convert.quantization.comparison import Comparison

# The service in addition to a loaded model: gunicorn's arbiter, HTTP, Pillow, buffers. Measured
# for the default model: 81 MB for all processes, 50 MB for a bare process (docs/memory.md).
SERVICE_MB = 31.0
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


def select(
    options: argparse.Namespace,
    exported: Exported,
    calibration: NDArray[np.uint8],
    images: ComparisonImages,
    reference: NDArray[np.float32],
    labels: list[str],
    progress: Progress,
) -> list[CandidateResult]:
    """Compare candidates until one passes all gates; the last or best one is marked as chosen.

    If --precision names a precision, the best candidate is chosen even if it fails a gate, unless
    it exceeds --limit-mb.

    Args:
      calibration: (n, h, w, c) pixels that set the int8 ranges.
      reference: probabilities (n, classes) of the original.

    Raises: BadInput if no candidate is left, with the failed gates of each.
    """
    limit_mb = options.limit_mb - SERVICE_MB if options.limit_mb else None
    gate = Gate(options.gate_agreement, options.gate_mean_change, options.gate_lost, limit_mb)
    generated: Iterable[candidates.Candidate] = [
        candidates.Candidate("original file", exported.precision, exported.content)
    ]
    if exported.precision == "fp32":
        generated = candidates.generate_candidates(
            exported.content, calibration, images.scaling, options.precision, progress.log
        )
    results: list[CandidateResult] = []
    for candidate in generated:
        compared, failed = _compare(candidate, exported.output, gate, images, reference, labels)
        if images.synthetic and candidate.precision in ("int8", "dynamic"):
            failed.append("no images were given to verify it")
        results.append(CandidateResult(candidate, compared, failed, chosen=not failed))
        progress.log(_summarise(results[-1]))
        if not failed:
            return results
    usable = [
        index
        for index, result in enumerate(results)
        if result.comparison.images and (limit_mb is None or result.comparison.peak_mb <= limit_mb)
    ]
    if not usable or (options.precision == "auto" and exported.precision == "fp32"):
        raise BadInput(_failure_message(results, options.limit_mb))
    best = max(usable, key=lambda index: results[index].comparison.agreement)
    results[best] = results[best]._replace(chosen=True)
    return results


def _compare(
    candidate: candidates.Candidate,
    output: str,
    gate: Gate,
    images: ComparisonImages,
    reference: NDArray[np.float32],
    labels: list[str],
) -> tuple[Comparison, list[str]]:
    """Compare one candidate; returns the failed gates, or the reason why it cannot run."""
    if candidate.error:
        return comparison.not_measured(candidate), [candidate.error]
    try:
        compared = comparison.compare(
            candidate, reference, images.pixels, images.scaling, images.truth, labels, output
        )
    except (ValueError, RuntimeError, subprocess.SubprocessError) as error:
        return comparison.not_measured(candidate), [f"LiteRT cannot run it ({str(error)[:160]})"]
    return compared, failed_gates(gate, compared)


def _summarise(result: CandidateResult) -> str:
    """Summarise a candidate in one line for the terminal."""
    compared = result.comparison
    if not compared.images:
        return f"{compared.name}: {result.failed[0]}"
    text = (
        f"{compared.name}: {compared.bytes / 2**20:.1f} MB, agrees in {compared.agreement:.1%} of "
        f"{compared.images}, {compared.p50_ms[1]:.1f} ms, peak {compared.peak_mb:.0f} MB"
    )
    return f"{text}; {'; '.join(result.failed)}" if result.failed else f"{text}: passes"


def _failure_message(results: list[CandidateResult], limit_mb: float | None) -> str:
    reasons = [f"  {result.comparison.name}: {'; '.join(result.failed)}" for result in results]
    peaks = [result.comparison.peak_mb for result in results if result.comparison.images]
    least_mb = min(peaks, default=math.inf) + SERVICE_MB
    advice = (
        f"The smallest service needs about {least_mb:.0f} MB, the limit is {limit_mb:.0f} MB: "
        "increase --limit-mb, or reduce --side."
        if limit_mb and limit_mb < least_mb < math.inf
        else "Give more --calibration images, or relax a --gate."
    )
    return "\n".join(["No precision passes all gates:", *reasons, advice])


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
