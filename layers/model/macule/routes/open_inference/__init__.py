"""Routes of the Open Inference Protocol, for clients of KServe and Triton.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import macule
from macule import settings
from macule.errors import NoSuchModel
from macule.http import messages, uploads
from macule.http.messages import Request, Response
from macule.http.uploads import content_coding
from macule.inference import decoding, runtime
from macule.memory import admission
from macule.registry.model_card import Card
from macule.routes import classify, health

if TYPE_CHECKING:
    from macule.routes.open_inference.tensors import InferOptions

PIXELS = "RGB values from 0 to 255, before the model's own scaling; instead of `image`"
REASON = "why it is inconclusive: not_dermoscopic, unfamiliar or low_probability; else empty"
IMAGE = "an encoded image of any supported format and size; base64 in JSON"


def server(request: Request) -> Response:
    """GET /v2: server metadata."""
    about = {"name": "macule", "version": macule.__version__}
    return messages.json_response({**about, "extensions": ["binary_tensor_data"]})


def live(request: Request) -> Response:
    """GET /v2/health/live: liveness. Never loads the model."""
    return messages.json_response({"live": True})


def ready(request: Request) -> Response:
    """GET /v2/health/ready, or of a model: readiness; loads the model."""
    chosen = settings.current()
    named = {"name": _card(request, chosen).name} if request.names else {}
    runtime.get_or_load(chosen.model)
    answer = health.ready(request)
    headers = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
    document = {**named, "ready": answer.status == 200}
    return messages.json_response(document, answer.status, **headers)


def model_metadata(request: Request) -> Response:
    """GET /v2/models/{name}: inputs and outputs of the model."""
    card = _card(request, settings.current())
    shape, labels = [1, *decoding.sides(card.side_px), 3], [1, len(card.labels)]
    inputs = [
        _tensor_metadata("image", "BYTES", [1], IMAGE),
        _tensor_metadata("pixels", "FP32", shape, f"{PIXELS}; UINT8 too"),
    ]
    outputs = [
        _tensor_metadata("probabilities", "FP32", labels, "calibrated; they sum to 1"),
        _tensor_metadata("labels", "BYTES", labels, "the labels of the probabilities"),
        _tensor_metadata("decision", "BYTES", [1], "classified, inconclusive or not_skin"),
        _tensor_metadata("reason", "BYTES", [1], REASON),
    ]
    about = {"name": card.name, "versions": [card.version], "platform": "litert"}
    return messages.json_response({**about, "inputs": inputs, "outputs": outputs})


def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: classify one image, as POST /predict/ does."""
    from macule.routes.open_inference.tensors import InferOptions, Tensor, write

    chosen = settings.current()
    card = _card(request, chosen)
    content_coding.parse_coding(request)
    options = InferOptions()
    request.body.wait_for_arrival(_limit_bytes(request, chosen), chosen.body_timeout_s)

    def read_image() -> bytes:
        nonlocal options
        image, options = _read_image(request, card, chosen)
        return image

    outcome = classify.run(request, read_image, chosen)
    answer = outcome.answer
    probabilities = {row["label"]: row["probability"] for row in answer["predictions"]}
    shape = [1, len(card.labels)]
    outputs = {
        "probabilities": Tensor("FP32", shape, [probabilities[label] for label in card.labels]),
        "labels": Tensor("BYTES", shape, list(card.labels)),
        "decision": Tensor("BYTES", [1], [answer["decision"]]),
        "reason": Tensor("BYTES", [1], [answer.get("reason", "")]),
    }
    document = {
        "model_name": card.name,
        "model_version": card.version,
        "id": options.id or answer["id"],
        "parameters": {"disclaimer": answer["disclaimer"]},
    }
    return classify.with_timing(write(document, options, outputs), outcome)


def _read_image(
    request: Request, card: Card, chosen: settings.Settings
) -> tuple[bytes, InferOptions]:
    """Read the body and extract the image, each once its memory is reserved."""
    from macule.routes.open_inference import tensors

    size, most = tensors.json_bytes(request.headers), chosen.max_image_bytes
    limit = _limit_bytes(request, chosen)
    cost = content_coding.max_decoded_bytes(request, limit)
    cost = uploads.DECODING_BYTES + max(0, cost - request.body.received_bytes)
    here, sides = admission.current(), decoding.sides(card.side_px)
    with here.reserve(cost, chosen.admission_timeout_s):
        chunks = content_coding.decoded_chunks(request, limit, chosen.body_timeout_s)
        parts = tensors.split(chunks, size)
    with here.reserve(tensors.read_cost(parts, sides), chosen.admission_timeout_s):
        return tensors.read(parts, sides, most)


def _limit_bytes(request: Request, chosen: settings.Settings) -> int:
    """Return the most bytes of a body; base64 adds a third."""
    from macule.routes.open_inference import tensors

    most = chosen.max_image_bytes
    is_json = tensors.json_bytes(request.headers) is None
    return tensors.JSON_BYTES + (most * 4 // 3 if is_json else most)


def _card(request: Request, chosen: settings.Settings) -> Card:
    """Return the card of the model in the path.

    Raises: NoSuchModel; ModelUnavailable.
    """
    card = runtime.card(chosen.model)
    names = {"name": card.name, "version": card.version}
    for what, given in request.names.items():
        known = names[what]
        if given not in (known, known.encode().decode("latin-1")):  # WSGI decodes it as latin-1
            raise NoSuchModel(f"This service has the model {card.name}, version {card.version}.")
    return card


def _tensor_metadata(name: str, datatype: str, shape: list[int], content: str) -> dict[str, Any]:
    parameters = {"content": content}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
