"""Reading and validation of the model card, model.json."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from macule.errors import BadCard

FILE = "model.json"
SCHEMA = 1
RESIZE_MODES = ("squash", "crop", "pad")
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
OUTPUTS = ("logits", "probabilities", "sigmoid")
MAX_SIDE_PX = 2048
PERCENT = re.compile("[5-9][0-9]")  # coverage of a prediction set
PERCENTS = "whole percent from 50 to 99"
SHA256 = re.compile("[0-9a-fA-F]{64}")


class Card(NamedTuple):
    """The facts about a model that serving needs; `document` is the whole card.

    `labels` are in the order of the network's outputs; `names` maps a language to one name each.
    The page reads three more keys of the document: `descriptions`, a sentence for each label by
    language; `urgent`, the labels that a doctor should see soon; `metrics.ece_after`.
    The network's input is (pixel - mean) / std for each channel, in the order `channels`.
    `side_px` is the side of a square, or (height, width). `output` is the kind of scores: logits,
    probabilities, or the sigmoid of the second of two labels. An image is inconclusive if its top
    probability is below `inconclusive_below`, its distance above `unfamiliar_above` or its clinical
    score above `not_dermoscopic_above`, and not skin if the distance is above `not_skin_above`. The
    thresholds of scores that the model does not have are None. `prediction_sets` maps a coverage in
    percent to the least probability of a label in the prediction set.
    """

    name: str
    version: str
    file: str
    sha256: str
    precision: str
    labels: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    side_px: int | tuple[int, int]
    resize: str
    channels: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    output: str
    temperature: float
    inconclusive_below: float
    unfamiliar_above: float | None
    not_skin_above: float | None
    not_dermoscopic_above: float | None
    prediction_sets: Mapping[int, float]
    document: Mapping[str, Any]


def read(folder: str) -> Card:
    """Read `model.json` in *folder*.

    Raises: BadCard, naming the key, its value and what was expected.
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError as error:
        raise BadCard(f"There is no {FILE} in the model's folder.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadCard(f"{FILE} is not readable JSON.") from error
    return check(document)


def check(document: object) -> Card:
    """Validate a card's document and return its Card.

    Raises: BadCard.
    """
    if not isinstance(document, dict):
        raise BadCard(f"{FILE} is not a JSON object.")
    card: dict[str, Any] = document

    def need(key: str, ok: bool, expected: str) -> None:
        if not ok:
            raise BadCard(f"{FILE}: {key} is {_excerpt(card.get(key))}, not {expected}.")

    text, number = str, (int, float)
    need("schema", card.get("schema") == SCHEMA, f"{SCHEMA}")
    for key in ("name", "version", "file", "precision"):
        value = card.get(key)
        need(key, isinstance(value, text) and value != "", "a text")
    need("file", os.path.basename(card["file"]) == card["file"], "a file beside the card")
    sha256: Any = card.get("sha256")
    is_digest = isinstance(sha256, text) and SHA256.fullmatch(sha256)
    need("sha256", bool(is_digest), "64 hexadecimal digits")
    labels: Any = card.get("labels")
    need("labels", _is_text_list(labels) and len(set(labels or ())) >= 2, "two or more texts")
    need("labels", len(set(labels)) == len(labels), "free of duplicates")
    names: Any = card.get("names")
    need(
        "names",
        _is_text_by_language(names, len(labels)) and "en" in names,
        f"lists of {len(labels)} names by language, with en among them",
    )
    descriptions: Any = card.get("descriptions", {})
    need(
        "descriptions",
        _is_text_by_language(descriptions, len(labels)),
        f"lists of {len(labels)} sentences by language",
    )
    urgent: Any = card.get("urgent", [])
    is_subset = _is_text_list(urgent) and set(urgent) <= set(labels)
    need("urgent", is_subset, "a list of some of the labels")
    side: Any = card.get("side_px")
    sides = side if isinstance(side, list) and len(side) == 2 else [side]
    need(
        "side_px",
        all(type(length) is int and 8 <= length <= MAX_SIDE_PX for length in sides),
        f"8 to {MAX_SIDE_PX}, or a height and a width of that",
    )
    need("resize", card.get("resize") in RESIZE_MODES, " or ".join(RESIZE_MODES))
    need("channels", card.get("channels") in CHANNELS, " or ".join(CHANNELS))
    width = CHANNELS[card["channels"]]
    scaling: Any = card.get("scaling")
    need(
        "scaling",
        isinstance(scaling, dict)
        and all(_is_number_list(scaling.get(key), width) for key in ("mean", "std"))
        and all(value > 0 for value in scaling["std"]),
        f"mean and std, {width} numbers each, std above 0",
    )
    output: Any = card.get("output", "logits")
    need("output", output in OUTPUTS, " or ".join(OUTPUTS))
    need("labels", output != "sigmoid" or len(labels) == 2, "two, as a sigmoid needs")
    temperature: Any = card.get("temperature")
    need("temperature", isinstance(temperature, number) and temperature > 0, "a number above 0")
    thresholds: Any = card.get("thresholds")
    below: Any = thresholds.get("inconclusive") if isinstance(thresholds, dict) else None
    need("thresholds", isinstance(below, number) and 0 <= below <= 1, "inconclusive, 0 to 1")
    distances = [thresholds.get("unfamiliar"), thresholds.get("not_skin")]
    need(
        "thresholds",
        distances == [None, None]
        or (
            all(isinstance(far, number) and far > 0 for far in distances)
            and sorted(distances) == distances
        ),
        "unfamiliar and not_skin both or neither, above 0, unfamiliar not above not_skin",
    )
    clinical: Any = thresholds.get("not_dermoscopic")
    is_score = isinstance(clinical, number) and math.isfinite(clinical)
    need("thresholds", clinical is None or is_score, "not_dermoscopic, a finite number")
    sets: Any = card.get("prediction_sets", {})
    need(
        "prediction_sets",
        _is_prediction_sets(sets),
        f"probabilities from 0 to 1 by {PERCENTS}, none above that of a lower percent",
    )
    return Card(
        **{key: card[key] for key in ("name", "version", "file", "precision")},
        sha256=sha256.lower(),
        labels=tuple(labels),
        names={language: tuple(value) for language, value in names.items()},
        side_px=tuple(side) if isinstance(side, list) else side,
        resize=card["resize"],
        channels=card["channels"],
        mean=tuple(scaling["mean"]),
        std=tuple(scaling["std"]),
        output=output,
        temperature=float(temperature),
        inconclusive_below=float(below),
        unfamiliar_above=distances[0],
        not_skin_above=distances[1],
        not_dermoscopic_above=clinical,
        prediction_sets={int(percent): float(sets[percent]) for percent in sorted(sets)},
        document=card,
    )


def parse_coverage(text: str) -> int:
    """Parse the coverage of a prediction set in percent.

    Raises: ValueError that says what is expected.
    """
    if not PERCENT.fullmatch(text):
        raise ValueError(f"a {PERCENTS}")
    return int(text)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _is_text_by_language(value: object, count: int) -> bool:
    return isinstance(value, dict) and all(
        _is_text_list(texts) and len(texts) == count for texts in value.values()
    )


def _is_prediction_sets(value: object) -> bool:
    if not isinstance(value, dict) or not all(map(PERCENT.fullmatch, map(str, value))):
        return False
    least = [value[percent] for percent in sorted(value)]
    are_probabilities = all(isinstance(p, int | float) and 0 <= p <= 1 for p in least)
    return are_probabilities and least == sorted(least, reverse=True)


def _is_number_list(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(item, int | float) and abs(item) < 1e6 for item in value)
    )


def _excerpt(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
