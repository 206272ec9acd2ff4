"""Comparison of a candidate with the original: agreement, metrics, latency and memory."""

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
    """Metrics on labelled images; nan for a class without images."""

    accuracy: float
    balanced_accuracy: float
    auc: dict[str, float]  # by label, one vs rest


class Cost(NamedTuple):
    """Load time, latency and memory in a new process with numpy and the runtime only."""

    load_ms: float
    p50_ms: dict[int, float]  # by number of threads
    peak_mb: float  # with one thread


class Comparison(NamedTuple):
    """A candidate compared with the original on the same images; `images` is their number.

    The changes are those of single probabilities (0 to 1). `labelled`, the metrics of the
    candidate, and `original` are None without labels.
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
    """Compare *candidate* with the original on all images, and measure it in a new process.

    Args:
      reference: probabilities (n, classes) of the original, in the order of *labels*.
      pixels: (n, side, side, 3), decoded as in production.
      truth: (n,) indices into *labels*, or None.
      output: content of the file's output: logits, probabilities or sigmoid.
    """
    logits = batch_inference.logits(candidate.content, pixels, scaling, output)
    probabilities = metrics.softmax(logits)
    compared = metrics.compare_probabilities(probabilities, reference)
    cost = measure_cost(candidate.content)
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
        *cost,
    )


def not_measured(candidate: Candidate) -> Comparison:
    """Return the comparison of a candidate that could not be created or run."""
    name, precision, content, _ = candidate
    nan = math.nan
    return Comparison(name, precision, len(content), 0, nan, nan, nan, None, None, nan, {}, nan)


def compute_label_metrics(
    probabilities: metrics.Floats, truth: NDArray[np.int64], labels: list[str]
) -> LabelMetrics:
    """Return the metrics of *probabilities* (n, classes) for *truth* (n,)."""
    predicted = probabilities.argmax(axis=1)
    shares = metrics.sensitivity(predicted, truth, len(labels))
    aucs = {
        label: metrics.auc(probabilities[:, index], truth == index)
        for index, label in enumerate(labels)
    }
    return LabelMetrics(float((predicted == truth).mean()), float(np.nanmean(shares)), aucs)


def measure_cost(content: bytes) -> Cost:
    """Load and run *content* in a new process.

    Raises: subprocess.TimeoutExpired, or subprocess.CalledProcessError if the file does not run.
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
