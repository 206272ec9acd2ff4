"""The OOD score: the distance of an image from in-distribution images, in the network's features.

The score is the squared Mahalanobis distance under probabilistic PCA (Tipping and Bishop 1999), as
used by Lee et al. 2018 (arXiv 1807.03888). It costs one Dense layer and two sums, and is fitted
without out-of-distribution images.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MAX_COMPONENTS = 64
INCONCLUSIVE_QUANTILE, NOT_SKIN_QUANTILE = (0.97, 0.99)  # quantiles of in-distribution scores
# Of the variance of a feature. With less, float32 loses the difference of the two sums, and a
# feature that is almost constant dominates all others.
MIN_NOISE_VARIANCE = 0.01
MIN_IMAGES = 50  # with fewer, the variance of a thousand features cannot be estimated


class OODScorer(NamedTuple):
    """Score of features f (d,): (|x|² - |x @ axes|²) / d, with x = (f - mean) * gain.

    `mean`, `gain`: (d,); `axes`: (d, k). The score is at least 0, and about 1 for an
    in-distribution image.
    """

    mean: Floats
    gain: Floats
    axes: Floats

    def scores(self, features: Floats) -> Floats:
        """Return the scores (n,) of pooled *features* (n, d)."""
        centred = (features - self.mean) * self.gain
        projected = centred @ self.axes
        squares = (centred**2).sum(1) - (projected**2).sum(1)
        return np.asarray(squares / len(self.mean), np.float32)


def fit(features: Floats) -> OODScorer:
    """Fit a scorer on *features* (n, d), with n of at least MIN_IMAGES."""
    count, width = features.shape
    mean, spread = features.mean(axis=0), features.std(axis=0)
    gain = 1 / np.maximum(spread, spread.mean() * 0.1 + 1e-6)  # limit the gain of constant features
    centred = ((features - mean) * gain).astype(np.float64)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    axes = min(MAX_COMPONENTS, count // 4, width - 1)
    variances = lengths**2 / count
    # the remaining variance is spread over all other directions
    noise = max(float(variances[axes:].sum()) / (width - axes), MIN_NOISE_VARIANCE)
    along = np.sqrt(np.maximum(1 - noise / np.maximum(variances[:axes], noise), 0))
    scale = np.float32(noise**-0.5)
    return OODScorer(
        mean.astype(np.float32),
        (gain * scale).astype(np.float32),
        (directions[:axes].T * along).astype(np.float32),
    )


def score_thresholds(scores: Floats) -> dict[str, float]:
    """Return the thresholds for `inconclusive` and `not_skin` from in-distribution scores."""
    inconclusive, not_skin = np.quantile(scores, (INCONCLUSIVE_QUANTILE, NOT_SKIN_QUANTILE))
    return {"unfamiliar": round(float(inconclusive), 4), "not_skin": round(float(not_skin), 4)}


def build_score(scorer: OODScorer, features: Any) -> Any:
    """Build the tensor of the score, shape (1,), for pooled features (1, d)."""
    import tensorflow as tf

    centred = (features - scorer.mean) * scorer.gain
    projected = tf.matmul(centred, tf.constant(scorer.axes))
    return (tf.reduce_sum(centred**2, 1) - tf.reduce_sum(projected**2, 1)) / len(scorer.mean)
