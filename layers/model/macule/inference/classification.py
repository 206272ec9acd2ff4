"""Pixels to what is said of a photo: run the model, decide, draw its evidence.

The route, jobs, batches and the Python API share this. It knows no HTTP, no settings and no limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from macule.inference import activation_maps, decoding, runtime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from macule.registry.model_card import Card

DISCLAIMER = (
    "A research demonstration, not a medical device and not a diagnosis. Whatever this answer "
    "says, show a changing, bleeding or new spot to a clinician."
)


class Prediction(NamedTuple):
    """A label of the model, its English name, and its calibrated probability, to 6 decimals."""

    label: str
    name: str
    probability: float


class Explanation(NamedTuple):
    """Where the evidence for *label* lies: a heat map, and the same over the photo, as PNG files.

    *faithful*: whether the card says that the map agrees with Grad-CAM.
    """

    label: str
    faithful: bool
    heatmap: bytes
    overlay: bytes

    def __repr__(self) -> str:
        return f"Explanation(label={self.label!r}, faithful={self.faithful})"

    def _repr_png_(self) -> bytes:
        """Have a notebook show the overlay."""
        return self.overlay


class Classification(NamedTuple):
    """What a model finds in one photo.

    `decision` is `classified`, `inconclusive` or `not_skin`; `predictions` begin with the likeliest
    label, whose activation map `evidence` is: shape (h, w), None where the model has no maps.
    """

    decision: str
    predictions: tuple[Prediction, ...]
    evidence: NDArray[np.float32] | None


def classify(warm: runtime.LoadedModel, pixels: NDArray[np.uint8]) -> Classification:
    """Classify one photo, decoded by `image` for the card of *warm*.

    Raises: ModelUnavailable.
    """
    scores, card = runtime.run(warm, pixels), warm.card
    order = scores.probabilities.argsort()[::-1]
    predictions = tuple(
        Prediction(
            card.labels[index],
            card.names["en"][index],
            round(float(scores.probabilities[index]), 6),
        )
        for index in order
    )
    best = int(order[0])
    return Classification(
        decide(card, float(scores.probabilities[best]), scores.distance),
        predictions,
        None if scores.maps is None else scores.maps[..., best].copy(),
    )


def decide(card: Card, probability: float, distance: float | None) -> str:
    """Say what an answer is worth: `classified`, `inconclusive` or `not_skin`.

    Args:
      probability: of the likeliest label, calibrated.
      distance: as `model.Scores` has it.
    """
    far = 0.0 if distance is None else distance
    if card.not_skin_above is not None and far > card.not_skin_above:
        return "not_skin"
    unfamiliar = card.unfamiliar_above is not None and far > card.unfamiliar_above
    return "inconclusive" if unfamiliar or probability < card.inconclusive_below else "classified"


def draw_explanation(
    card: Card,
    label: str,
    evidence: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
) -> Explanation:
    """Draw the activation map of one label, in the shape of what the network saw.

    *size*: width and height of the photo as a viewer shows it.
    """
    height, width = decoding.sides(card.side_px)
    shape = size if card.resize == "squash" else (width, height)
    pictures = activation_maps.render(evidence, pixels, shape)
    faithful = bool(card.document.get("cam", {}).get("faithful", False))
    return Explanation(label, faithful, *pictures)
