"""The Open Inference Protocol's routes: a second door to the same model, for KServe and Triton.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import macule
from macule import settings
from macule.errors import NoSuchModel
from macule.http import content_coding, messages, uploads
from macule.http.messages import Request, Response
from macule.inference import decoding, runtime
from macule.memory import admission
from macule.registry.model_card import Card
from macule.routes import classify, health

if TYPE_CHECKING:
    from macule.routes.open_inference.tensors import Asked

PIXELS = "RGB values from 0 to 255, before the model's own scaling; instead of `image`"
PHOTO = "an encoded photo, of any format and size that is served; in JSON its base64"


def server(request: Request) -> Response:
    """GET /v2: what serves."""
    return messages.as_json(
        {
            "name": "macule",
            "version": macule.__version__,
            "extensions": ["binary_tensor_data"],
        }
    )


def live(request: Request) -> Response:
    """GET /v2/health/live: this process answers. Never touches the model."""
    return messages.as_json({"live": True})


def ready(request: Request) -> Response:
    """GET /v2/health/ready, or of a model: whether it serves; asking loads it."""
    chosen = settings.current()
    named = {"name": _card(request, chosen).name} if request.names else {}
    runtime.get_or_load(chosen.model)
    answer = health.ready(request)
    headers = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
    return messages.as_json({**named, "ready": answer.status == 200}, answer.status, **headers)


def about(request: Request) -> Response:
    """GET /v2/models/{name}: what goes in, and what comes out."""
    card = _card(request, settings.current())
    shape, labels = [1, *decoding.sides(card.side_px), 3], [1, len(card.labels)]
    inputs = [
        _described("image", "BYTES", [1], PHOTO),
        _described("pixels", "FP32", shape, f"{PIXELS}; UINT8 too"),
    ]
    outputs = [
        _described("probabilities", "FP32", labels, "calibrated; they sum to 1"),
        _described("labels", "BYTES", labels, "whose probabilities they are"),
        _described("decision", "BYTES", [1], "classified, inconclusive or not_skin"),
    ]
    return messages.as_json(
        {
            "name": card.name,
            "versions": [card.version],
            "platform": "litert",
            "inputs": inputs,
            "outputs": outputs,
        }
    )


def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: classify one image, as POST /predict/ does."""
    from macule.routes.open_inference.tensors import Asked, Tensor, write

    chosen = settings.current()
    card = _card(request, chosen)
    content_coding.named(request)
    asked = Asked()
    request.body.expect(_limit_bytes(request, chosen), chosen.body_timeout_s)

    def receive() -> bytes:
        nonlocal asked
        photo, asked = _receive(request, card, chosen)
        return photo

    outcome = classify.answered(request, receive, chosen)
    answer = outcome.answer
    found = {row["label"]: row["probability"] for row in answer["predictions"]}
    shape = [1, len(card.labels)]
    outputs = {
        "probabilities": Tensor("FP32", shape, [found[label] for label in card.labels]),
        "labels": Tensor("BYTES", shape, list(card.labels)),
        "decision": Tensor("BYTES", [1], [answer["decision"]]),
    }
    document = {
        "model_name": card.name,
        "model_version": card.version,
        "id": asked.id or answer["id"],
        "parameters": {"disclaimer": answer["disclaimer"]},
    }
    return classify.told(write(document, asked, outputs), outcome)


def _receive(request: Request, card: Card, chosen: settings.Settings) -> tuple[bytes, Asked]:
    """Read the body and take the image out of it, each once there is room for it."""
    from macule.routes.open_inference import tensors

    size, most = tensors.json_bytes(request.headers), chosen.max_image_bytes
    limit = _limit_bytes(request, chosen)
    cost = content_coding.most_bytes(request, limit)
    cost = uploads.DECODING_BYTES + max(0, cost - request.body.received_bytes)
    here, sides = admission.current(), decoding.sides(card.side_px)
    with here.reserve(cost, chosen.admission_timeout_s):
        parts = tensors.split(content_coding.chunks(request, limit, chosen.body_timeout_s), size)
    with here.reserve(tensors.price(parts, sides), chosen.admission_timeout_s):
        return tensors.read(parts, sides, most)


def _limit_bytes(request: Request, chosen: settings.Settings) -> int:
    """Return how many bytes a body may have; base64 is a third longer than what it encodes."""
    from macule.routes.open_inference import tensors

    most = chosen.max_image_bytes
    is_json = tensors.json_bytes(request.headers) is None
    return tensors.JSON_BYTES + (most * 4 // 3 if is_json else most)


def _card(request: Request, chosen: settings.Settings) -> Card:
    """Return the card of the model that the path names.

    Raises: NoSuchModel; ModelUnavailable.
    """
    card = runtime.card(chosen.model)
    names = {"name": card.name, "version": card.version}
    for what, given in request.names.items():
        if given not in (names[what], names[what].encode().decode("latin-1")):  # WSGI's spelling
            raise NoSuchModel(f"The model here is {card.name}, version {card.version}.")
    return card


def _described(name: str, datatype: str, shape: list[int], content: str) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"content": content},
    }
