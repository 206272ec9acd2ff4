"""The decision by the card's thresholds, and its cache."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from macule import settings
from macule.caching import answers
from macule.errors import BadRequest, ModelUnavailable
from macule.inference import classification, decoding, pipeline, runtime
from macule.inference.options import PredictOptions
from macule.inference.runtime import loading
from macule.inference.runtime.litert import Tensor
from macule.memory import admission
from macule.memory.admission import Admission
from macule.registry import local, model_card
from PIL import Image
from support.images import photo, skin

CARD = model_card.read(local.DEFAULT_MODEL_DIR)._replace(
    inconclusive_below=0.5,
    unfamiliar_above=2.0,
    not_skin_above=3.0,
    not_dermoscopic_above=-1.5,
)
WITH_MAP = PredictOptions(with_cam=True)


def tensor(*shape: int) -> Tensor:
    return Tensor(shape, "float32", "f", 1.0, 0, False)


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    """Start each test with a cold process."""
    runtime.by_pid.clear()
    yield
    runtime.by_pid.clear()


@pytest.mark.parametrize(
    ("probability", "distance", "clinical", "verdict"),
    [
        (0.9, 1.0, -2.0, ("classified", None)),
        (0.5, 2.0, -1.5, ("classified", None)),
        (0.49, 1.0, -2.0, ("inconclusive", "low_probability")),
        (0.49, 2.1, -2.0, ("inconclusive", "unfamiliar")),
        (0.9, 2.1, -2.0, ("inconclusive", "unfamiliar")),
        (0.9, 1.0, -1.4, ("inconclusive", "not_dermoscopic")),
        (0.49, 2.1, -1.4, ("inconclusive", "not_dermoscopic")),
        (0.9, 3.1, -2.0, ("not_skin", None)),
        (0.1, 3.1, 9.0, ("not_skin", None)),
    ],
)
def test_the_verdict_follows_the_thresholds(
    probability: float, distance: float, clinical: float, verdict: tuple[str, str | None]
) -> None:
    """not_skin comes first; of several reasons the first one counts; a threshold itself passes."""
    assert classification.decide(CARD, probability, distance, clinical) == verdict


def test_only_a_score_with_a_threshold_counts() -> None:
    """Without thresholds or without scores the probability alone decides."""
    plain = CARD._replace(unfamiliar_above=None, not_skin_above=None, not_dermoscopic_above=None)

    assert classification.decide(plain, 0.9, None, None).decision == "classified"
    assert classification.decide(plain, 0.9, 99.0, 99.0).decision == "classified"
    assert classification.decide(CARD, 0.9, None, None).decision == "classified"
    assert classification.decide(plain, 0.4, None, None).decision == "inconclusive"


def test_a_card_without_prediction_sets_says_so() -> None:
    """A coverage is rejected before the photo is decoded; without one the card is not asked."""
    plain, some = (CARD._replace(prediction_sets=sets) for sets in ({}, {80: 0.3, 90: 0.1}))

    classification.check_coverage(plain, None)
    classification.check_coverage(some, 90)
    with pytest.raises(BadRequest, match="has no prediction sets"):
        classification.check_coverage(plain, 90)
    with pytest.raises(BadRequest, match=r"sets=95 .* it has 80, 90"):
        classification.check_coverage(some, 95)


@pytest.mark.parametrize("kind", ["plain", "noise", "stripes"])
def test_images_without_skin_are_not_skin(kind: str) -> None:
    """The default model rejects a plain colour, noise and stripes as `not_skin`."""
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    side = int(warm.card.side_px)  # type: ignore[arg-type]
    pixels = np.full((side, side, 3), (30, 90, 200), np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(1).integers(0, 256, pixels.shape, np.uint8)
    if kind == "stripes":
        pixels[:, ::8] = 255

    scores = runtime.run(warm, Image.fromarray(pixels))

    top = max(scores.probabilities)
    verdict = classification.decide(warm.card, top, scores.distance, scores.clinical)
    assert verdict == ("not_skin", None)


@pytest.mark.parametrize(
    ("thresholds", "outputs", "missing"),
    [
        ({"not_dermoscopic_above": None}, {}, "distance output, .*thresholds.not_skin needs"),
        ({}, {1: tensor(1)}, "clinical score .*thresholds.not_dermoscopic needs"),
        ({"unfamiliar_above": None, "not_skin_above": None}, {}, "clinical score"),
    ],
)
def test_a_card_with_thresholds_needs_their_scores(
    thresholds: dict[str, None], outputs: dict[int, Tensor], missing: str
) -> None:
    """A file without the score of one of the card's thresholds is rejected on loading."""
    known = {2: tensor(1, len(CARD.labels)), 4: tensor(1, 8, 8, 3)}
    source = tensor(1, *decoding.sides(CARD.side_px), 3)

    with pytest.raises(ModelUnavailable, match=missing):
        loading.check_shapes(CARD._replace(**thresholds), [source], known | outputs)


def test_drawn_skin_gives_a_finite_score() -> None:
    """The OOD score of any picture is a number, 0 or more."""
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    height, width = decoding.sides(warm.card.side_px)
    scores = runtime.run(warm, skin(600, 600).resize((width, height)))

    assert scores.distance is not None
    assert 0 <= scores.distance < 1e6


def at(share: float, kept: answers.MemoryCache | None = None) -> Admission:
    """Simulate a share of a limit far above any photo's estimate."""
    return Admission(2**40, lambda: int(share * 2**40), cache=kept)


def test_low_memory_disables_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first degradation level answers are computed; above it hits return."""
    kept, chosen, used = answers.MemoryCache(2**20, 60), settings.read({}), []
    monkeypatch.setattr(answers, "current", lambda: kept)
    for share in (0.5, 0.5, 0.86, 0.86, 0.5, 0.5):
        here = at(share, kept)
        monkeypatch.setattr(admission, "current", lambda here=here: here)
        with here.reserve(1, 0):  # as the route does for the body
            pass
        used.append((pipeline.predict(photo(), chosen)[0]["metrics"]["cache"], kept.held_bytes > 0))

    twice = [("miss", True), ("hit", True)]
    assert used == [*twice, ("miss", False), ("miss", False), *twice]


def test_an_answer_that_lacks_its_map_is_not_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once there is memory again, the map is drawn."""
    kept, chosen = answers.MemoryCache(2**20, 60), settings.read({})
    monkeypatch.setattr(answers, "current", lambda: kept)
    found = []
    for share in (0.9, 0.5):
        here = at(share)
        monkeypatch.setattr(admission, "current", lambda here=here: here)
        found.append(pipeline.predict(photo(), chosen, WITH_MAP)[0])

    assert found[0]["explanation_missing"] == pipeline.MEMORY_SHORT
    assert found[1]["metrics"]["cache"] == "miss"
    assert found[1]["explanation"]["kind"] == "cam"


def test_another_setting_or_model_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers without maps, or of another card, are not returned otherwise."""
    kept, chosen = answers.MemoryCache(2**20, 60), settings.read({})
    monkeypatch.setattr(answers, "current", lambda: kept)
    without = chosen._replace(enable_gradcam=False)

    first = pipeline.predict(photo(), without, WITH_MAP)[0]
    second = pipeline.predict(photo(), chosen, WITH_MAP)[0]
    warm = runtime.get_or_load(local.DEFAULT_MODEL_DIR)
    document = {**warm.card.document, "thresholds": {"inconclusive": 1.0}}
    stern = warm._replace(card=model_card.check(document))
    monkeypatch.setattr(runtime, "get_or_load", lambda _: stern)
    third = pipeline.predict(photo(), chosen, WITH_MAP)[0]

    assert first["explanation_missing"] == pipeline.GRADCAM_OFF
    assert [answer["metrics"]["cache"] for answer in (first, second, third)] == ["miss"] * 3
    assert (third["decision"], third["reason"]) == ("inconclusive", "low_probability")


def test_an_unavailable_model_does_not_answer_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process whose model cannot be loaded is unavailable."""
    kept, chosen = answers.MemoryCache(2**20, 60), settings.read({})
    monkeypatch.setattr(answers, "current", lambda: kept)
    pipeline.predict(photo(), chosen)
    runtime.by_pid.clear()

    with pytest.raises(ModelUnavailable):
        pipeline.predict(photo(), chosen._replace(model=str(tmp_path)))
