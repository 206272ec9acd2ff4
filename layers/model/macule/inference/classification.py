"""Classification of decoded pixels: run the model, decide, draw the activation map.

Shared by routes, jobs, batches and the Python API; knows no HTTP, no settings and no limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from macule.errors import BadRequest
from macule.inference import activation_maps, decoding, runtime

if TYPE_CHECKING:
    from PIL.Image import Image

    from macule.inference.runtime import ActivationMap
    from macule.inference.runtime.loading import LoadedModel
    from macule.registry.model_card import Card

DISCLAIMER = (
    "A research demonstration, not a medical device and not a diagnosis. Whatever this answer "
    "says, show a changing, bleeding or new spot to a clinician."
)
# Pillow's transpositions for test-time augmentation; the last one mirrors in both directions.
MIRRORS = ("FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "ROTATE_180")


class Prediction(NamedTuple):
    """A label of the model, its English name, and its calibrated probability, to 6 decimals."""

    label: str
    name: str
    probability: float


class Explanation(NamedTuple):
    """The activation map of *label* as a heat map, and the same over the photo, as PNG files.

    `faithful`: whether the card says that the map agrees with Grad-CAM.
    """

    label: str
    faithful: bool
    heatmap: bytes
    overlay: bytes

    def __repr__(self) -> str:
        return f"Explanation(label={self.label!r}, faithful={self.faithful})"

    def _repr_png_(self) -> bytes:
        """Return the overlay, which a notebook displays."""
        return self.overlay


class Verdict(NamedTuple):
    """How far the model's result can be trusted.

    `decision` is `classified`, `inconclusive` or `not_skin`. `reason` says why it is inconclusive:
    `not_dermoscopic`, `unfamiliar` or `low_probability`; None for the other decisions.
    """

    decision: str
    reason: str | None = None


class Classification(NamedTuple):
    """The model's result for one photo.

    `predictions` is sorted, the most probable label first. `activation` is the activation map of
    that label; None if the model has no maps.
    """

    verdict: Verdict
    predictions: tuple[Prediction, ...]
    activation: ActivationMap | None


def classify(model: LoadedModel, picture: Image, tta: int = 1) -> Classification:
    """Classify one photo, decoded by `decoding` for the card of *model*.

    *tta*: 4 also runs the network on the three mirror images, one after the other, and takes the
      mean of the calibrated probabilities; everything else comes from the photo itself.
    Raises: ModelUnavailable.
    """
    scores, card = runtime.run(model, picture), model.card
    probabilities = scores.probabilities
    if tta > 1:
        from PIL.Image import Transpose

        mirrored = (picture.transpose(Transpose[name]) for name in MIRRORS)
        passes = [probabilities, *(runtime.run(model, each).probabilities for each in mirrored)]
        probabilities = [sum(shares) / tta for shares in zip(*passes, strict=True)]
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
    names = card.names["en"]
    predictions = tuple(
        Prediction(card.labels[index], names[index], round(probabilities[index], 6))
        for index in order
    )
    best = order[0]
    return Classification(
        decide(card, probabilities[best], scores.distance, scores.clinical),
        predictions,
        scores.maps.of(best) if scores.maps else None,
    )


def decide(
    card: Card, probability: float, distance: float | None, clinical: float | None
) -> Verdict:
    """Compare the scores of one photo with the thresholds of the card.

    The order is part of the API: of several reasons the first one is given.

    Args:
      probability: of the most probable label, calibrated.
      distance, clinical: as in `runtime.Scores`.
    """
    if _exceeds(distance, card.not_skin_above):
        return Verdict("not_skin")
    if _exceeds(clinical, card.not_dermoscopic_above):
        return Verdict("inconclusive", "not_dermoscopic")
    if _exceeds(distance, card.unfamiliar_above):
        return Verdict("inconclusive", "unfamiliar")
    if probability < card.inconclusive_below:
        return Verdict("inconclusive", "low_probability")
    return Verdict("classified")


def _exceeds(score: float | None, threshold: float | None) -> bool:
    return score is not None and threshold is not None and score > threshold


def check_coverage(card: Card, percent: int | None) -> None:
    """Check that the card has a threshold for prediction sets of this coverage.

    Raises: BadRequest.
    """
    if percent is None or percent in card.prediction_sets:
        return
    if not card.prediction_sets:
        raise BadRequest(f"The model {card.name} has no prediction sets; leave `sets` out.")
    known = ", ".join(map(str, card.prediction_sets))
    raise BadRequest(f"sets={percent} is not in the card of {card.name}; it has {known}.")


def prediction_set(card: Card, predictions: Sequence[Prediction], percent: int) -> tuple[str, ...]:
    """Return the labels of the prediction set with a coverage of *percent*, most probable first.

    A split-conformal set with the LAC score, one minus the probability; never empty.
    Source: Sadinle et al. 2019, arXiv 1609.00451.

    Args:
      predictions: all labels, the most probable first.
      percent: a key of the card's `prediction_sets`.
    """
    least = card.prediction_sets[percent]
    return tuple(
        prediction.label
        for place, prediction in enumerate(predictions)
        if place == 0 or prediction.probability >= least
    )


def draw_explanation(
    card: Card,
    label: str,
    activation: ActivationMap,
    picture: Image,
    size: tuple[int, int],
) -> Explanation:
    """Draw the activation map of one label in the aspect ratio of the network's view.

    *size*: width and height of the upright photo.
    """
    height, width = decoding.sides(card.side_px)
    shape = size if card.resize == "squash" else (width, height)
    pictures = activation_maps.render(activation, picture, shape)
    faithful = bool(card.document.get("cam", {}).get("faithful", False))
    return Explanation(label, faithful, *pictures)
