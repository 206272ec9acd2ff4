"""A class-balanced multinomial logistic regression on frozen features."""

from dataclasses import dataclass

import numpy as np
from convert import metrics
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Inverse strengths tried, as L2 penalty on weights of standardised features.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Head:
    """A Dense layer: `kernel` (features, classes) and `bias` (classes,), float32."""

    kernel: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """Logits (n, classes) of *features* (n, features)."""
        return np.asarray(features @ self.kernel + self.bias, np.float32)


def fit(features: Floats, truth: Ints, classes: int, penalty: float) -> Head:
    """Fit the head: each class weighs the same, whatever its count.

    The features are standardised for the optimiser, and the head is folded back onto raw ones.
    L-BFGS starts from zero, so the answer has no seed.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    x = np.asarray((features - mean) / spread, np.float32)
    y = np.eye(classes, dtype=np.float32)[truth]
    counts = np.bincount(truth, minlength=classes)
    weights = np.asarray(1 / (np.count_nonzero(counts) * counts[truth]), np.float32)[:, None]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parts = flat.astype(np.float32).reshape(-1, classes)
        kernel, bias = parts[:-1], parts[-1]
        probabilities = metrics.softmax(x @ kernel + bias)
        chosen = np.maximum((probabilities * y).sum(axis=1), 1e-12)
        error = ((probabilities - y) * weights).astype(np.float32)
        slope = np.vstack([x.T @ error + penalty * kernel, error.sum(axis=0)])
        value = -(weights[:, 0] * np.log(chosen)).sum() + penalty / 2 * (kernel**2).sum()
        return float(value), slope.ravel().astype(np.float64)

    start = np.zeros((x.shape[1] + 1) * classes)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    parts = np.asarray(best.x, np.float32).reshape(-1, classes)
    kernel = parts[:-1] / spread[:, None]
    return Head(np.asarray(kernel, np.float32), np.asarray(parts[-1] - mean @ kernel, np.float32))


def choose(
    features: Floats, truth: Ints, classes: int, seed: int, penalties: tuple[float, ...] = PENALTIES
) -> tuple[float, dict[float, float]]:
    """Choose the penalty by five-fold cross-validation, on the mean one-against-rest AUC.

    Args:
      features: (n, views, features); the views of one image always share a fold, and the held-out
        images are judged by their first view, as a request would be.

    Returns: the best penalty, and the mean AUC of each.
    """
    folds = np.random.default_rng(seed).permutation(len(truth)) % 5
    scores = {}
    for penalty in penalties:
        aucs = []
        for fold in range(5):
            kept, held = folds != fold, folds == fold
            head = fit(*stack(features[kept], truth[kept]), classes, penalty)
            logits = head.logits(features[held, 0])
            aucs += [
                metrics.auc(metrics.softmax(logits)[:, index], truth[held] == index)
                for index in range(classes)
            ]
        scores[penalty] = float(np.nanmean(aucs))
    return max(scores, key=lambda penalty: scores[penalty]), scores


def stack(features: Floats, truth: Ints) -> tuple[Floats, Ints]:
    """Make every view of (n, views, features) a sample of its own."""
    return features.reshape(-1, features.shape[-1]), np.repeat(truth, features.shape[1])
