"""How far an image lies from those that a network knows, from the features of its head.

The squared Mahalanobis distance under probabilistic PCA (Tipping and Bishop 1999), as Lee et al.
2018 (arXiv 1807.03888) use it to tell what a network was not trained on: one Dense layer and two
sums beside the head, and no image of what is unknown is needed to fit it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MAX_COMPONENTS = 64
INCONCLUSIVE_QUANTILE, NOT_SKIN_QUANTILE = (
    0.97,
    0.99,
)  # shares of known images that lie nearer than the thresholds
# Of a feature's variance: with less, float32 would lose the difference of the two sums, and a
# feature that hardly ever speaks would outvote all others.
MIN_NOISE_VARIANCE = 0.01
MIN_IMAGES = 50  # below that the spread of a thousand features is a guess


class OODScorer(NamedTuple):
    """Where known features (n, d) lie: distance = (|x|² - |x @ axes|²) / d, x = (f - mean) * gain.

    `mean`, `gain`: (d,); `axes`: (d, k). About 1 for a known image; 0 or more.
    """

    mean: Floats
    gain: Floats
    axes: Floats

    def scores(self, features: Floats) -> Floats:
        """Distances (n,) of pooled *features* (n, d)."""
        apart = (features - self.mean) * self.gain
        along = apart @ self.axes
        squares = (apart**2).sum(1) - (along**2).sum(1)
        return np.asarray(squares / len(self.mean), np.float32)


def fit(features: Floats) -> OODScorer:
    """Fit the scorer of *features* (n, d), at least LEAST_IMAGES of them."""
    count, width = features.shape
    mean, spread = features.mean(axis=0), features.std(axis=0)
    gain = 1 / np.maximum(spread, spread.mean() * 0.1 + 1e-6)  # a dead feature must not shout
    apart = ((features - mean) * gain).astype(np.float64)
    _, lengths, directions = np.linalg.svd(apart, full_matrices=False)
    axes = min(MAX_COMPONENTS, count // 4, width - 1)
    variances = lengths**2 / count
    # what is left is spread over all other directions, those too that so few images never showed
    noise = max(float(variances[axes:].sum()) / (width - axes), MIN_NOISE_VARIANCE)
    along = np.sqrt(np.maximum(1 - noise / np.maximum(variances[:axes], noise), 0))
    scale = np.float32(noise**-0.5)
    return OODScorer(
        mean.astype(np.float32),
        (gain * scale).astype(np.float32),
        (directions[:axes].T * along).astype(np.float32),
    )


def score_thresholds(distances: Floats) -> dict[str, float]:
    """Set by known images from which distance one is unfamiliar, and from which it is not skin."""
    unfamiliar, far = np.quantile(distances, (INCONCLUSIVE_QUANTILE, NOT_SKIN_QUANTILE))
    return {"unfamiliar": round(float(unfamiliar), 4), "not_skin": round(float(far), 4)}


def build_score(scorer: OODScorer, features: Any) -> Any:
    """Build the distance, shape (1,), of a tensor of pooled features (1, d)."""
    import tensorflow as tf

    apart = (features - scorer.mean) * scorer.gain
    along = tf.matmul(apart, tf.constant(scorer.axes))
    return (tf.reduce_sum(apart**2, 1) - tf.reduce_sum(along**2, 1)) / len(scorer.mean)
