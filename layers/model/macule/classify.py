"""The predict route: a photo in, probabilities out."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from macule import admission, explain, http, image, manifest, model, settings, upload
from macule.errors import BadRequest
from macule.http import Request, Response
from macule.ladder import Rung

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISCLAIMER = (
    "A research demonstration, not a medical device and not a diagnosis. Whatever this answer "
    "says, show a changing, bleeding or new spot to a clinician."
)
GRADCAM_OFF = "Activation maps are switched off here (ENABLE_GRADCAM=false)."
SHORT = "Memory is short now: activation maps are left out until it is not."
NO_MAPS = "This model has no activation maps; its card says why."


def photo(request: Request) -> Response:
    """POST /predict/: classify the photo in the body.

    Query: `top_k` (1 or more: how many labels to return), `explain=cam`.
    """
    began = time.perf_counter()
    chosen = settings.current()
    top_k, with_cam = wishes(request)

    def answered() -> tuple[dict[str, Any], dict[str, float]]:
        return predict(receive(request, chosen).image, chosen, top_k, with_cam)

    answer, stages = admission.current().turn(answered, chosen.admission_timeout_s)
    answer["metrics"]["total_ms"] = stages["total"] = _ms(began)
    if answer["metrics"]["cold_start"]:
        stages = {"boot": request.boot_ms, **stages}
    timing = ", ".join(f"{name};dur={spent:.1f}" for name, spent in stages.items())
    return http.as_json(answer, Server_Timing=timing)


def receive(request: Request, chosen: settings.Settings) -> upload.Upload:
    """Read the photo in the body, once there is room for it and for what decoding it will take."""
    cost = upload.price(request, chosen.max_image_bytes)
    with admission.current().room(cost, chosen.admission_timeout_s):
        return upload.photo(request, chosen.max_image_bytes, chosen.body_timeout_s)


def wishes(request: Request) -> tuple[int | None, bool]:
    """Read what the query asks for: how many labels, and whether a map.

    Raises: BadRequest.
    """
    return _top_k(request.query.get("top_k")), _with_cam(request.query.get("explain"))


def predict(
    body: bytes, chosen: settings.Settings, top_k: int | None = None, with_cam: bool = False
) -> tuple[dict[str, Any], dict[str, float]]:
    """Classify one image file; what the command line and the route share.

    Returns: the answer as docs/api.md describes it, and milliseconds by stage.
    Raises: UnsupportedImage, BadImage, ImageTooLarge, CannotFit, Unavailable.
    """
    began = time.perf_counter()
    header = image.inspect(body, chosen.max_image_pixels)
    cold = model.loaded() is None
    warm = model.warm(chosen.model)
    card = warm.card
    cost = admission.price(header, card.side_px)
    with admission.current().room(cost, chosen.admission_timeout_s) as rung:
        decoding = time.perf_counter()
        pixels = image.decode(body, card.side_px, card.resize, chosen.decode_timeout_s)
        decode_ms, inferring = _ms(decoding), time.perf_counter()
        scores = model.run(warm, pixels)
        infer_ms = _ms(inferring)
        order = scores.probabilities.argsort()[::-1]
        best = int(order[0])
        explanation, reason = None, ""
        if with_cam:
            reason = _why_no_map(chosen, rung, scores)
        if with_cam and not reason and scores.maps is not None:
            # what decoding took is free again, and drawing takes less
            explanation = _explain(card, header, pixels, scores.maps, best)
    answer = {
        "id": os.urandom(12).hex(),
        "status": "succeeded",
        "model": warm.identity(),
        "decision": decide(card, float(scores.probabilities[best]), scores.distance),
        "predictions": [
            {
                "label": card.labels[index],
                "name": card.names["en"][index],
                "probability": round(float(scores.probabilities[index]), 6),
            }
            for index in order[:top_k]
        ],
        "explanation": explanation,
        **({"explanation_missing": reason} if reason else {}),
        "metrics": {
            "decode_ms": decode_ms,
            "infer_ms": infer_ms,
            "total_ms": _ms(began),
            "cold_start": cold,
            "cache": "miss",
        },
        "disclaimer": DISCLAIMER,
    }
    stages = {**(warm.stages if cold else {}), "decode": decode_ms, "infer": infer_ms}
    return answer, stages


def _why_no_map(chosen: settings.Settings, rung: Rung, scores: model.Scores) -> str:
    if not chosen.enable_gradcam:
        return GRADCAM_OFF
    if not rung.overlays:
        return SHORT
    return NO_MAPS if scores.maps is None else ""


def _explain(
    card: manifest.Card,
    header: image.Header,
    pixels: NDArray[np.uint8],
    maps: NDArray[np.float32],
    index: int,
) -> dict[str, Any]:
    """Draw the activation map of one label, in the shape of what the network saw."""
    height, width = image.sides(card.side_px)
    shape = header.upright_size if card.resize == "squash" else (width, height)
    pictures = explain.render(maps[..., index], pixels, shape)
    return {
        "kind": "cam",
        "label": card.labels[index],
        "faithful": bool(card.document.get("cam", {}).get("faithful", False)),
        **pictures._asdict(),
    }


def decide(card: manifest.Card, probability: float, distance: float | None) -> str:
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


def _top_k(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= 1000:
        raise BadRequest(f"top_k={text[:20]!r} is not a whole number from 1 to 1000.")
    return int(text[:6])


def _with_cam(text: str | None) -> bool:
    if text not in (None, "", "none", "cam"):
        raise BadRequest(f"explain={text[:20]!r} is not known; the one kind is explain=cam.")
    return text == "cam"


def _ms(since: float) -> float:
    return round((time.perf_counter() - since) * 1e3, 2)
