"""The OOD score: its formula, and what it separates."""

from pathlib import Path

import numpy as np
import pytest
from macule.convert import export
from macule.convert.evaluation import batch_inference
from macule.convert.graph import out_of_distribution
from macule.convert.quantization import quantize
from macule.convert.source import load
from numpy.typing import NDArray
from support import small_model


def training_features(count: int = 200, seed: int = 0) -> NDArray[np.float32]:
    """Return 30 features that vary along 3 directions, with a little noise."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(3, 30))
    return np.asarray(
        random.normal(size=(count, 3)) @ directions + random.normal(0, 0.4, (count, 30)) + 5,
        np.float32,
    )


def test_in_distribution_images_score_about_1() -> None:
    """Unseen images of the fitted distribution score about 1 on average."""
    scorer = out_of_distribution.fit(training_features())

    assert scorer.scores(training_features(seed=1)).mean() == pytest.approx(1, abs=0.3)


def test_other_directions_score_high() -> None:
    """A step of usual length in a direction without training variance scores high."""
    scorer = out_of_distribution.fit(training_features())
    strange = training_features(seed=1) + np.random.default_rng(2).normal(0, 1, (200, 30)).astype(
        np.float32
    )

    assert scorer.scores(strange).min() > scorer.scores(training_features(seed=3)).max()


def test_the_score_equals_the_mahalanobis_distance() -> None:
    """The short formula equals the Mahalanobis distance under its covariance."""
    scorer = out_of_distribution.fit(training_features())
    features = training_features(5, seed=4)
    inverse = np.eye(30) - scorer.axes @ scorer.axes.T
    apart = (features - scorer.mean) * scorer.gain

    expected = np.einsum("nd,de,ne->n", apart, inverse, apart) / 30

    np.testing.assert_allclose(scorer.scores(features), expected, rtol=1e-2)


def test_constant_features_give_finite_scores() -> None:
    """Dead channels, even if all are dead, give finite scores."""
    features = training_features()
    features[:, :10] = 0

    assert np.isfinite(out_of_distribution.fit(features).scores(features)).all()
    assert np.isfinite(out_of_distribution.fit(features * 0).scores(features * 0)).all()


@pytest.mark.slow
def test_the_file_separates_in_and_out_of_distribution(tmp_path: Path) -> None:
    """In the file, also in int8, nearly all noise and stripes score above known images."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(1)
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((small_model.SIDE_PX, small_model.SIDE_PX, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, 2, "same", activation="relu"),
            layers.Conv2D(24, 3, 2, "same", activation="relu"),
            layers.Conv2D(32, 3, 2, "same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    path = f"{tmp_path}/model.keras"
    network.save(path)
    still = ((0.0,) * 3, (1.0,) * 3)
    shown, others = small_model.pixels(100), small_model.pixels(40, seed=8)
    random = np.random.default_rng(3)
    strange = random.integers(0, 256, others.shape, dtype=np.uint8)
    strange[::2, :, ::4] = 0

    made = export.export(load.load(path), 32, 32, batch_inference.scale(shown, still))
    images = [batch_inference.scale(image[None], still) for image in shown]
    whole = quantize.int8(made.content, images, (0, 255), quantize.float_pattern(made.content))

    for content in (made.content, whole):
        near, far = (
            batch_inference.logits_and_ood_scores(content, each, still)[1]
            for each in (others, strange)
        )
        assert near is not None
        assert far is not None
        assert (far > np.quantile(near, 0.95)).mean() > 0.9
