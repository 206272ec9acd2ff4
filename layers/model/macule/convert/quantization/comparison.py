"""What a candidate does to the original's answers, and what it costs to serve."""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.evaluation import batch_inference, metrics
from macule.convert.quantization.candidates import Candidate

PROBE_TIMEOUT_S = 120.0


class LabelMetrics(NamedTuple):
    """Figures against the truth; nan where a class has no image."""

    accuracy: float
    balanced_accuracy: float
    auc: dict[str, float]  # by label, one against the rest


class Cost(NamedTuple):
    """What serving the file costs a fresh process that imports numpy and the runtime alone."""

    load_ms: float
    p50_ms: dict[int, float]  # by number of threads
    peak_mb: float  # with one thread


class Comparison(NamedTuple):
    """A candidate against the original on the same *images*.

    The changes are of single probabilities (0 to 1). `labelled` and `original` are None without
    labels.
    """

    name: str
    precision: str
    bytes: int
    images: int
    agreement: float
    mean_change: float
    max_change: float
    labelled: LabelMetrics | None
    original: LabelMetrics | None
    load_ms: float
    p50_ms: dict[int, float]
    peak_mb: float


def compare(
    candidate: Candidate,
    reference: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    scaling: batch_inference.Scaling,
    truth: NDArray[np.int64] | None,
    labels: list[str],
    output: str = "logits",
) -> Comparison:
    """Run *candidate* on every image and in a fresh process, and compare.

    Args:
      reference: probabilities (n, classes) of the original, in the order of *labels*.
      pixels: (n, side, side, 3), as the serving decoder gives them.
      truth: (n,) places in *labels*, or None.
      output: what the file's row holds: logits, probabilities or sigmoid.
    """
    logits = batch_inference.logits(candidate.content, pixels, scaling, output)
    probabilities = metrics.softmax(logits)
    compared = metrics.compare_probabilities(probabilities, reference)
    spent = measure_cost(candidate.content)
    return Comparison(
        candidate.name,
        candidate.precision,
        len(candidate.content),
        len(pixels),
        compared["top1_agreement"],
        compared["mean_change"],
        compared["max_change"],
        None if truth is None else compute_label_metrics(probabilities, truth, labels),
        None if truth is None else compute_label_metrics(reference, truth, labels),
        *spent,
    )


def not_measured(candidate: Candidate) -> Comparison:
    """Say of a candidate that cannot be made or run that nothing is known of it."""
    size = len(candidate.content)
    none = math.nan
    return Comparison(
        candidate.name, candidate.precision, size, 0, none, none, none, None, None, none, {}, none
    )


def compute_label_metrics(
    probabilities: metrics.Floats, truth: NDArray[np.int64], labels: list[str]
) -> LabelMetrics:
    """Figures of *probabilities* (n, classes) against *truth* (n,)."""
    predicted = probabilities.argmax(axis=1)
    shares = metrics.sensitivity(predicted, truth, len(labels))
    aucs = {
        label: metrics.auc(probabilities[:, index], truth == index)
        for index, label in enumerate(labels)
    }
    return LabelMetrics(float((predicted == truth).mean()), float(np.nanmean(shares)), aucs)


def measure_cost(content: bytes) -> Cost:
    """Load and run *content* in a process of its own.

    Raises: subprocess.TimeoutExpired, or subprocess.CalledProcessError for a file that does not
      run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "macule.convert.quantization.memory_probe", str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=True,
            timeout=PROBE_TIMEOUT_S,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    threads = {int(count): p50_ms for count, p50_ms in found["p50_ms"].items()}
    return Cost(found["load_ms"], threads, found["peak_mb"])
