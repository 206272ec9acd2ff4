"""The predict route: a photo in, probabilities out."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from macule import settings
from macule.caching import answers, single_flight
from macule.caching.single_flight import PendingCall
from macule.errors import BadRequest
from macule.http import messages, uploads
from macule.http.messages import Request, Response
from macule.inference import pipeline
from macule.inference.pipeline import Outcome
from macule.memory import admission


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

    def received() -> Outcome | PendingCall[Outcome]:
        return classified(receive())

    def classified(body: bytes) -> Outcome | PendingCall[Outcome]:
        if alone:
            keeps = "no-store" not in control
            return pipeline.predict(
                body, chosen, top_k, with_cam, read_cache=False, write_cache=keeps
            )
        digest = pipeline.sha256(body)
        job = partial(pipeline.predict, body, chosen, top_k, with_cam, digest)
        return single_flight.current().run_or_join((digest, top_k, with_cam), body, job)

    outcome = here.run_in_slot(received, chosen.admission_timeout_s)
    while isinstance(outcome, PendingCall):  # another request is at it: wait outside the slot
        found = outcome.wait(deadline - time.monotonic())
        job = partial(classified, outcome.image)
        outcome = _again(found) if found else here.run_in_slot(job, deadline - time.monotonic())
    answer, stages, facts = outcome
    answer["metrics"]["total_ms"] = pipeline.elapsed_ms(began)
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
    with admission.current().reserve(cost, chosen.admission_timeout_s):
        return uploads.photo(request, chosen.max_image_bytes, chosen.body_timeout_s)


def wishes(request: Request) -> tuple[int | None, bool]:
    """Read what the query asks for: how many labels, and whether a map.

    Raises: BadRequest.
    """
    return _top_k(request.query.get("top_k")), _with_cam(request.query.get("explain"))


def _again(outcome: Outcome) -> Outcome:
    """Give another request's outcome as one's own."""
    answer, _, facts = outcome
    metrics = {**answer["metrics"], "decode_ms": 0.0, "infer_ms": 0.0, "cold_start": False}
    again = {**answer, "id": pipeline.new_id(), "metrics": {**metrics, "cache": "hit"}}
    return Outcome(again, {}, {**facts, "cold": False, "cache": "hit"})


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
