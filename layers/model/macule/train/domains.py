"""Scores of where a photo comes from: far from all skin photos, or taken without a dermatoscope.

Both scores use the pooled features of a layer that keeps its ImageNet weights.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from macule.convert.graph import out_of_distribution
from macule.convert.graph.out_of_distribution import OODScorer

Floats = NDArray[np.float32]
SHRINKAGE = 0.05  # of the covariance towards its mean variance
# Of the scores of dermoscopic photos. With these thresholds, fewer than 5 % of them are refused.
UNFAMILIAR_QUANTILE, NOT_SKIN_QUANTILE, CLINICAL_QUANTILE = 0.97, 0.985, 0.98


class Domains(NamedTuple):
    """Scores of features f (d,): the distance of `skin`, and f @ `direction` + `offset`.

    The second, clinical score is positive for photos that look clinical. Without clinical photos
    `direction` is None.
    """

    skin: OODScorer
    direction: Floats | None = None
    offset: float = 0.0

    def scores(self, features: Floats) -> Floats:
        """Return the scores (n, 1) or (n, 2) of pooled *features* (n, d)."""
        distances = self.skin.scores(features)[:, None]
        if self.direction is None:
            return distances
        clinical = features @ self.direction + np.float32(self.offset)
        return np.concatenate([distances, clinical[:, None]], axis=1)

    def build(self, features: Any) -> Any:
        """Build the tensor of the scores, shape (1,) or (2,), for pooled features (1, d)."""
        import tensorflow as tf

        distance = out_of_distribution.build_score(self.skin, features)
        if self.direction is None:
            return distance
        clinical = tf.matmul(features, tf.constant(self.direction[:, None])) + self.offset
        return tf.concat([distance, tf.reshape(clinical, [1])], 0)


def fit(dermoscopic: Floats, clinical: Floats) -> Domains:
    """Fit both scores on features (n, d); *clinical* may be empty.

    The direction is Fisher's linear discriminant, with half of each kind.
    """
    skin = out_of_distribution.fit(np.concatenate([dermoscopic, clinical]))
    if not len(clinical):
        return Domains(skin)
    means = [part.mean(axis=0, dtype=np.float64) for part in (dermoscopic, clinical)]
    covariance = np.mean([np.cov(part, rowvar=False) for part in (dermoscopic, clinical)], axis=0)
    width = len(means[0])
    covariance += SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    direction = np.linalg.solve(covariance, means[1] - means[0])
    offset = -float(direction @ (means[0] + means[1]) / 2)
    return Domains(skin, direction.astype(np.float32), offset)


def thresholds(scores: Floats) -> dict[str, float]:
    """Return the thresholds of the card from scores (n, 1) or (n, 2) of dermoscopic photos.

    The scores must not be fitted on these photos.
    """
    quantiles = [
        ("unfamiliar", scores[:, 0], UNFAMILIAR_QUANTILE),
        ("not_skin", scores[:, 0], NOT_SKIN_QUANTILE),
        *(("not_dermoscopic", column, CLINICAL_QUANTILE) for column in scores.T[1:]),
    ]
    return {name: round(float(np.quantile(of, share)), 4) for name, of, share in quantiles}
