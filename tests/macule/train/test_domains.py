"""Scores of where a photo comes from, on drawn features."""

import numpy as np
import pytest
from macule.train import domains

RANDOM = np.random.default_rng(2)
WIDTH = 12
DERMOSCOPIC = RANDOM.normal(0, 1, (400, WIDTH)).astype(np.float32)
CLINICAL = RANDOM.normal(3 * np.eye(WIDTH)[0], 1, (80, WIDTH)).astype(np.float32)
NOTHING = np.empty((0, WIDTH), np.float32)


def test_clinical_photos_score_above_dermoscopic_ones() -> None:
    """The threshold from half of the features separates most of the other half."""
    fitted = domains.fit(DERMOSCOPIC[::2], CLINICAL[::2])
    dermoscopic, clinical = (fitted.scores(part[1::2]) for part in (DERMOSCOPIC, CLINICAL))
    limits = domains.thresholds(dermoscopic)

    assert (dermoscopic[:, 1] > limits["not_dermoscopic"]).mean() < 0.03
    assert (clinical[:, 1] > limits["not_dermoscopic"]).mean() > 0.5
    assert limits["unfamiliar"] <= limits["not_skin"]


def test_without_clinical_photos_there_is_one_score() -> None:
    """Only the distance is left, and its thresholds."""
    fitted = domains.fit(DERMOSCOPIC, NOTHING)
    scores = fitted.scores(DERMOSCOPIC)

    assert scores.shape == (400, 1)
    assert domains.thresholds(scores).keys() == {"unfamiliar", "not_skin"}


@pytest.mark.parametrize("clinical", [CLINICAL, NOTHING], ids=["two scores", "one score"])
def test_the_graph_computes_the_scores(clinical: domains.Floats) -> None:
    """The tensor for one photo has the scores of its features."""
    pytest.importorskip("tensorflow")
    fitted = domains.fit(DERMOSCOPIC, clinical)
    features = np.array(DERMOSCOPIC[:1])

    built = fitted.build(features)

    np.testing.assert_allclose(np.asarray(built), fitted.scores(features)[0], rtol=1e-3, atol=1e-3)
