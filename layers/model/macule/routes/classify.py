"""POST /predict/: an image in, probabilities out."""

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
from macule.http.uploads import parsing
from macule.inference import pipeline
from macule.inference.options import DEFAULT_OPTIONS, TTA_PASSES, PredictOptions
from macule.inference.pipeline import Outcome
from macule.memory import admission
from macule.registry import model_card


def classify_image(request: Request) -> Response:
    """POST /predict/: classify the image in the body.

    Query: `top_k` (1 or more: how many labels to return), `explain=cam`, `tta=4` (averages the
    probabilities of four mirror images), `sets=90` (a prediction set of this coverage in percent).
    A request with `instances` (TF Serving, Vertex AI) gets the answer as the one item of
    `predictions`.
    """
    chosen = settings.current()
    options = parse_query(request)
    expect_upload(request, chosen)
    is_batch = False

    def read_image() -> bytes:
        nonlocal is_batch
        upload = read_upload(request, chosen)
        is_batch = upload.is_batch
        return upload.image

    outcome = run(request, read_image, chosen, options)
    answer = {"predictions": [outcome.answer]} if is_batch else outcome.answer
    return with_timing(messages.json_response(answer), outcome)


def run(
    request: Request,
    read_image: Callable[[], bytes],
    chosen: settings.Settings,
    options: PredictOptions = DEFAULT_OPTIONS,
) -> Outcome:
    """Read and classify an image in a slot; concurrent identical requests are computed once."""
    began = time.perf_counter()
    control = _directives(request.headers.get("cache-control", ""))
    uncached = answers.current() is None or bool(control & {"no-cache", "no-store"})
    here, deadline = admission.current(), time.monotonic() + chosen.admission_timeout_s

    def read_and_classify() -> Outcome | PendingCall[Outcome]:
        return classify(read_image())

    def classify(body: bytes) -> Outcome | PendingCall[Outcome]:
        predict = partial(pipeline.predict, body, chosen, options)
        if uncached:
            return predict(read_cache=False, write_cache="no-store" not in control)
        digest = pipeline.sha256(body)
        job = partial(predict, digest)
        return single_flight.current().run_or_join((digest, options), body, job)

    outcome = here.run_in_slot(read_and_classify, chosen.admission_timeout_s)
    while isinstance(outcome, PendingCall):  # another request computes it: wait outside the slot
        found = outcome.wait(deadline - time.monotonic())
        job = partial(classify, outcome.image)
        left_s = deadline - time.monotonic()
        outcome = _as_cache_hit(found) if found else here.run_in_slot(job, left_s)
    answer, stages, facts = outcome
    answer["metrics"]["total_ms"] = pipeline.elapsed_ms(began)
    if answer["metrics"]["cold_start"]:
        stages = {"boot": request.boot_ms, **stages}
    return Outcome(answer, stages, facts)


def with_timing(response: Response, outcome: Outcome) -> Response:
    """Return *response* with Server-Timing, and with facts and stages for the log."""
    total_ms = outcome.answer["metrics"]["total_ms"]
    spent = [*outcome.stages.items(), ("total", total_ms)]
    timing = ", ".join(f"{name};dur={spent_ms:.1f}" for name, spent_ms in spent)
    headers = {**response.headers, "Server-Timing": timing}
    return response._replace(headers=headers, facts=outcome.facts, stages=outcome.stages)


def expect_upload(request: Request, chosen: settings.Settings) -> None:
    """Let the server receive the body before a slot is taken, if it can wait without a thread."""
    uploads.wait_for_body(request, chosen.max_image_bytes, chosen.body_timeout_s)


def read_upload(request: Request, chosen: settings.Settings) -> parsing.Upload:
    """Read the image in the body, once its memory for reading and decoding is reserved."""
    cost = uploads.estimate_bytes(request, chosen.max_image_bytes)
    with admission.current().reserve(cost, chosen.admission_timeout_s):
        return uploads.read_upload(request, chosen.max_image_bytes, chosen.body_timeout_s)


def parse_query(request: Request) -> PredictOptions:
    """Parse the query: `top_k`, `explain`, `tta` and `sets`.

    Raises: BadRequest.
    """
    query = request.query
    return PredictOptions(
        top_k=_top_k(query.get("top_k")),
        with_cam=_with_cam(query.get("explain")),
        tta=_tta(query.get("tta")),
        coverage_percent=_coverage_percent(query.get("sets")),
    )


def _as_cache_hit(outcome: Outcome) -> Outcome:
    """Return the outcome of another request as a cache hit with its own id."""
    answer, _, facts = outcome
    metrics = {**answer["metrics"], "decode_ms": 0.0, "infer_ms": 0.0, "cold_start": False}
    own = {**answer, "id": pipeline.new_id(), "metrics": {**metrics, "cache": "hit"}}
    return Outcome(own, {}, {**facts, "cold": False, "cache": "hit"})


def _top_k(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= 1000:
        raise BadRequest(f"top_k={text[:20]!r} is not a whole number from 1 to 1000.")
    return int(text[:6])


def _with_cam(text: str | None) -> bool:
    if text not in (None, "", "none", "cam"):
        raise BadRequest(f"explain={text[:20]!r} is not supported; use explain=cam.")
    return text == "cam"


def _tta(text: str | None) -> int:
    if text is None:
        return 1
    if text not in map(str, TTA_PASSES):
        raise BadRequest(f"tta={text[:20]!r} is not supported; use tta=1 or tta=4.")
    return int(text)


def _coverage_percent(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return model_card.parse_coverage(text)
    except ValueError as error:
        raise BadRequest(f"sets={text[:20]!r} is not {error}.") from None


def _directives(control: str) -> set[str]:
    return {part.partition("=")[0].strip().lower() for part in control.split(",")}
