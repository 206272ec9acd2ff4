"""The model card."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from macule.errors import BadCard
from macule.registry import local, model_card
from support.service import ROOT

DEFAULT = json.loads((Path(local.DEFAULT_MODEL_DIR) / model_card.FILE).read_text())


def test_the_default_card_has_every_fact() -> None:
    """The default card has everything that serving and a reader need."""
    card = model_card.check(DEFAULT)

    assert card.labels == ("nevus", "melanoma", "seborrheic_keratosis")
    assert card.names.keys() == card.document["descriptions"].keys() == {"en", "vi"}
    assert card.document["urgent"] == ["melanoma"]
    assert {"source", "licence", "training", "metrics"} <= card.document.keys()


def test_training_writes_the_shipped_texts() -> None:
    """`make train` writes the names, descriptions and urgent labels of the card."""
    about = json.loads((ROOT / "layers/model/macule/train/isic.json").read_text())

    for key in ("names", "descriptions"):
        for language, texts in about[key].items():
            assert [texts[label] for label in DEFAULT["labels"]] == DEFAULT[key][language]
    assert about["urgent"] == DEFAULT["urgent"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("name", ""),
        ("file", "../model.tflite"),
        ("sha256", "abc"),
        ("labels", ["a"]),
        ("labels", ["a", "a", "b"]),
        ("labels", ["a", "", "b"]),
        ("labels", "nevus"),
        ("names", {"en": ["one"]}),
        ("names", {"vi": ["a", "b", "c"]}),
        ("descriptions", {"en": ["one"]}),
        ("descriptions", ["a", "b", "c"]),
        ("urgent", ["not a label"]),
        ("urgent", "melanoma"),
        ("side_px", 0),
        ("side_px", True),
        ("side_px", "224"),
        ("resize", "stretch"),
        ("side_px", [100]),
        ("side_px", [100, 4]),
        ("output", "scores"),
        ("channels", "rbg"),
        ("scaling", {"mean": [0, 0, 0], "std": [1, 0, 1]}),
        ("scaling", None),
        ("temperature", 0),
        ("thresholds", {"inconclusive": 2}),
        ("thresholds", {"inconclusive": 0.5, "not_skin": 2.0}),
        ("thresholds", {"inconclusive": 0.5, "unfamiliar": 3.0, "not_skin": 2.0}),
        ("thresholds", {"inconclusive": 0.5, "unfamiliar": -1.0, "not_skin": 2.0}),
        ("thresholds", {"inconclusive": 0.5, "not_dermoscopic": "high"}),
        ("thresholds", {"inconclusive": 0.5, "not_dermoscopic": float("inf")}),
        ("prediction_sets", [0.3, 0.1]),
        ("prediction_sets", {"49": 0.3}),
        ("prediction_sets", {"100": 0.3}),
        ("prediction_sets", {"0.9": 0.3}),
        ("prediction_sets", {"90": 1.1}),
        ("prediction_sets", {"90": float("nan")}),
        ("prediction_sets", {"90": "0.3"}),
        ("prediction_sets", {"95": 0.3, "80": 0.2}),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    """The error names the key and what was expected."""
    document = {**copy.deepcopy(DEFAULT), key: value}

    with pytest.raises(BadCard, match=key):
        model_card.check(document)


@pytest.mark.parametrize("value", [-7, -0.5, 0, 12.25])
def test_a_clinical_score_has_any_sign(value: float) -> None:
    """`thresholds.not_dermoscopic` is any finite number, also without the other two."""
    thresholds = {"inconclusive": 0.5, "not_dermoscopic": value}

    card = model_card.check({**DEFAULT, "thresholds": thresholds})

    assert card.not_dermoscopic_above == value
    assert (card.unfamiliar_above, card.not_skin_above) == (None, None)


def test_prediction_sets_are_ordered_by_coverage() -> None:
    """They are optional, and equal thresholds are valid."""
    unordered = {"95": 0, "80": 0.31, "90": 0.31}

    card = model_card.check({**DEFAULT, "prediction_sets": unordered})

    assert list(card.prediction_sets.items()) == [(80, 0.31), (90, 0.31), (95, 0.0)]
    without = {key: value for key, value in DEFAULT.items() if key != "prediction_sets"}
    assert model_card.check(without).prediction_sets == {}


def test_keys_must_be_consistent() -> None:
    """A gray model has one mean, a sigmoid two labels."""
    with pytest.raises(BadCard, match="1 number"):
        model_card.check({**DEFAULT, "channels": "gray"})
    with pytest.raises(BadCard, match="as a sigmoid needs"):
        model_card.check({**DEFAULT, "output": "sigmoid"})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_an_invalid_card_is_rejected(text: str, tmp_path: Path) -> None:
    """A missing card, an empty one and one that is no JSON object have their own error."""
    with pytest.raises(BadCard):
        model_card.read(str(tmp_path))
    (tmp_path / model_card.FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadCard):
        model_card.read(str(tmp_path))
