"""The predict route: a photo in, probabilities out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from macule import settings
from macule.caching import answers, single_flight
from macule.caching.single_flight import Flight
from macule.errors import BadRequest
from macule.http import messages, uploads
from macule.http.messages import Request, Response
from macule.inference import activation_maps, classification, decoder_threads, decoding, runtime
from macule.memory import admission
from macule.memory.degradation import Rung

GRADCAM_OFF = "Activation maps are switched off here (ENABLE_GRADCAM=false)."
SHORT = "Memory is short now: activation maps are left out until it is not."
NO_MAPS = "This model has no activation maps; its card says why."
# What an answer says of the photo, and a cache keeps; the first two are there if they must be.
MISSING, WARNINGS = "explanation_missing", "warnings"
FINDINGS = {"decision", "predictions", "explanation"}


class Outcome(NamedTuple):
    """An answer as docs/api.md has it, milliseconds by stage, and what else a log may have."""

    answer: dict[str, Any]
    stages: dict[str, float]
    facts: dict[str, Any]


def photo(request: Request) -> Response:
    """POST /predict/: classify the photo in the body.

    Query: `top_k` (1 or more: how many labels to return), `explain=cam`.
    Where it came as `instances`, as TF Serving's and Vertex AI's clients send it, they read the
    answer as the one of `predictions`.
    """
    chosen = settings.current()
    top_k, with_cam = wishes(request)
    expect(request, chosen)
    is_batch = False

    def received() -> bytes:
        nonlocal is_batch
        found = receive(request, chosen)
        is_batch = found.is_batch
        return found.image

    outcome = answered(request, received, chosen, top_k, with_cam)
    answer = {"predictions": [outcome.answer]} if is_batch else outcome.answer
    return told(messages.as_json(answer), outcome)


def answered(
    request: Request,
    receive: Callable[[], bytes],
    chosen: settings.Settings,
    top_k: int | None = None,
    with_cam: bool = False,
) -> Outcome:
    """Classify what *receive* returns when it is its turn; the same at once is computed once."""
    began = time.perf_counter()
    control = _directives(request.headers.get("cache-control", ""))
    alone = answers.current() is None or bool(control & {"no-cache", "no-store"})
    here, deadline = admission.current(), time.monotonic() + chosen.admission_timeout_s

    def received() -> Outcome | Flight[Outcome]:
        return classified(receive())

    def classified(body: bytes) -> Outcome | Flight[Outcome]:
        if alone:
            keeps = "no-store" not in control
            return predict(body, chosen, top_k, with_cam, asks=False, keeps=keeps)
        digest = sha256(body)
        job = partial(predict, body, chosen, top_k, with_cam, digest)
        return single_flight.current().join((digest, top_k, with_cam), body, job)

    outcome = here.turn(received, chosen.admission_timeout_s)
    while isinstance(outcome, Flight):  # another request is at it: wait outside the slot
        found = outcome.wait(deadline - time.monotonic())
        job = partial(classified, outcome.image)
        outcome = _again(found) if found else here.turn(job, deadline - time.monotonic())
    answer, stages, facts = outcome
    answer["metrics"]["total_ms"] = _ms(began)
    if answer["metrics"]["cold_start"]:
        stages = {"boot": request.boot_ms, **stages}
    return Outcome(answer, stages, facts)


def told(response: Response, outcome: Outcome) -> Response:
    """Have *response* say what it took: to its caller, and to the log."""
    total_ms = outcome.answer["metrics"]["total_ms"]
    spent = [*outcome.stages.items(), ("total", total_ms)]
    timing = ", ".join(f"{name};dur={spent_ms:.1f}" for name, spent_ms in spent)
    headers = {**response.headers, "Server-Timing": timing}
    return response._replace(headers=headers, facts=outcome.facts, stages=outcome.stages)


def expect(request: Request, chosen: settings.Settings) -> None:
    """Have the photo come before it is its turn, where the server can wait without a thread."""
    uploads.expect(request, chosen.max_image_bytes, chosen.body_timeout_s)


def receive(request: Request, chosen: settings.Settings) -> uploads.Upload:
    """Read the photo in the body, once there is room for it and for what decoding it will take."""
    cost = uploads.price(request, chosen.max_image_bytes)
    with admission.current().room(cost, chosen.admission_timeout_s):
        return uploads.photo(request, chosen.max_image_bytes, chosen.body_timeout_s)


def wishes(request: Request) -> tuple[int | None, bool]:
    """Read what the query asks for: how many labels, and whether a map.

    Raises: BadRequest.
    """
    return _top_k(request.query.get("top_k")), _with_cam(request.query.get("explain"))


def sha256(content: bytes) -> str:
    """Return the digest by which bytes are known again, in hexadecimal."""
    import hashlib

    return hashlib.sha256(content).hexdigest()


def predict(
    body: bytes,
    chosen: settings.Settings,
    top_k: int | None = None,
    with_cam: bool = False,
    digest: str = "",
    *,
    asks: bool = True,
    keeps: bool = True,
) -> Outcome:
    """Classify one image file, or say again what was found in it.

    Args:
      digest: of *body*, where it is known already.
      asks, keeps: whether the cache may answer, and may keep what is found.
    Raises: UnsupportedImage, BadImage, ImageTooLarge, CannotFit, Unavailable.
    """
    began = time.perf_counter()
    header = decoder_threads.inspect(body, chosen)
    cold = runtime.loaded() is None
    warm = runtime.warm(chosen.model)  # first, as one that cannot serve must not seem to
    if cold:
        admission.current().settle()
    kept, key = answers.current() if asks or keeps else None, ""
    if kept:
        maps = with_cam and chosen.enable_gradcam
        key = answers.key(digest or sha256(body), warm.card.document, top_k, with_cam, maps)
    found = _known(kept.get(key)) if kept and asks else None
    hit, stages, noted = found is not None, dict[str, float](), {"rung": ""}
    if found is None:
        found, stages, noted = _find(body, header, warm, chosen, top_k, with_cam)
        if kept and keeps and found.get(MISSING) != SHORT:
            kept.put(key, json.dumps(found, separators=(",", ":")).encode())
    answer = {
        "id": _new_id(),
        "status": "succeeded",
        "model": warm.identity(),
        **found,
        "metrics": {
            "decode_ms": stages.get("decode", 0.0),
            "infer_ms": stages.get("infer", 0.0),
            "total_ms": _ms(began),
            "cold_start": cold,
            "cache": "hit" if hit else "miss",
        },
        "disclaimer": classification.DISCLAIMER,
    }
    facts = {
        **seen(header),
        "cache": answer["metrics"]["cache"],
        "cold": cold,
        "model": warm.card.sha256[:12],
        **noted,
    }
    return Outcome(answer, {**(warm.stages if cold else {}), **stages}, facts)


def seen(header: decoding.Header) -> dict[str, Any]:
    """Say of an image what a log may have."""
    return {"pixels": header.pixels, "format": header.format}


def _find(
    body: bytes,
    header: decoding.Header,
    warm: runtime.Warm,
    chosen: settings.Settings,
    top_k: int | None,
    with_cam: bool,
) -> tuple[dict[str, Any], dict[str, float], dict[str, str]]:
    """Decode and run; return what the answer says of the photo, milliseconds by stage, facts."""
    card, asked = warm.card, time.perf_counter()
    cost = admission.price(header, card.side_px)
    with admission.current().room(cost, chosen.admission_timeout_s) as rung:
        wait_ms, decoding = _ms(asked), time.perf_counter()
        decoded = decoder_threads.decode(body, card.side_px, card.resize, cost, chosen)
        decode_ms, inferring = _ms(decoding), time.perf_counter()
        finding = classification.find(warm, decoded.pixels)
        infer_ms = _ms(inferring)
        explanation, drawn = None, dict[str, float]()
        reason = _why_no_map(chosen, rung, finding) if with_cam else ""
        if with_cam and not reason and finding.evidence is not None:
            # what decoding took is free again, and drawing takes less
            drawing, label = time.perf_counter(), finding.predictions[0].label
            explanation = _written(
                classification.draw(
                    card, label, finding.evidence, decoded.pixels, header.upright_size
                )
            )
            drawn["explain"] = _ms(drawing)
    found = {
        "decision": finding.decision,
        "predictions": [prediction._asdict() for prediction in finding.predictions[:top_k]],
        "explanation": explanation,
        **({MISSING: reason} if reason else {}),
        **({WARNINGS: decoded.warnings} if decoded.warnings else {}),
    }
    stages = {"wait": wait_ms, "decode": decode_ms, "infer": infer_ms, **drawn}
    noted = {"rung": rung.name}
    if decoded.ignored:
        noted["profile_ignored"] = decoded.ignored
    return found, stages, noted


def _written(explanation: classification.Explanation) -> dict[str, Any]:
    """Write an explanation as answers have it, its pictures as data URIs."""
    return {
        "kind": "cam",
        **explanation._asdict(),
        "heatmap": activation_maps.data_uri(explanation.heatmap),
        "overlay": activation_maps.data_uri(explanation.overlay),
    }


def _known(kept: bytes | None) -> dict[str, Any] | None:
    """Read what a cache kept; what is no answer is none."""
    try:
        found = json.loads(kept or b"null")
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and FINDINGS <= found.keys() <= {*FINDINGS, MISSING, WARNINGS}
    return found if whole and isinstance(found["predictions"], list) else None


def _again(outcome: Outcome) -> Outcome:
    """Give another request's outcome as one's own."""
    answer, _, facts = outcome
    metrics = {**answer["metrics"], "decode_ms": 0.0, "infer_ms": 0.0, "cold_start": False}
    again = {**answer, "id": _new_id(), "metrics": {**metrics, "cache": "hit"}}
    return Outcome(again, {}, {**facts, "cold": False, "cache": "hit"})


def _why_no_map(chosen: settings.Settings, rung: Rung, finding: classification.Finding) -> str:
    if not chosen.enable_gradcam:
        return GRADCAM_OFF
    if not rung.overlays:
        return SHORT
    return NO_MAPS if finding.evidence is None else ""


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


def _directives(control: str) -> set[str]:
    return {part.partition("=")[0].strip().lower() for part in control.split(",")}


def _new_id() -> str:
    return os.urandom(12).hex()


def _ms(since: float) -> float:
    return round((time.perf_counter() - since) * 1e3, 2)
