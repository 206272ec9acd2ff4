"""The routes of predictions that outlive a request: make one, ask for it, cancel it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from macule import jobs, settings
from macule.errors import BadRequest, NoWebhooks
from macule.http import draining, messages
from macule.http.messages import Request, Response
from macule.inference import decoder_threads, decoding, pipeline
from macule.jobs import Job, Order, selection
from macule.memory import admission
from macule.observability import metrics
from macule.routes import classify

MOST_WAIT_S = 60.0
LOOK_S = 0.03  # while a caller waits for the end of a job
RETRY_AFTER_S = 1
KEY = re.compile(r"[\x21-\x7e]{1,128}")


def create(request: Request) -> Response:
    """POST /predictions: take a photo in, answer with where its prediction will be.

    Query as POST /predict/. Headers: `Prefer: respond-async` or `wait=N`, `Idempotency-Key`.
    """
    chosen, desk = settings.current(), selection.current()
    top_k, with_cam = classify.wishes(request)
    wait_s = _wait(request.headers.get("prefer", ""))
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise BadRequest("The Idempotency-Key is not 1 to 128 visible ASCII characters.")
    classify.expect(request, chosen)

    def received() -> tuple[Order, bytes, decoding.Header]:
        photo, texts, _ = classify.receive(request, chosen)
        header = decoder_threads.inspect(photo, chosen)  # no photo is refused at once
        order = Order(top_k, with_cam, owner=request.caller, **_webhook(texts, chosen))
        return order, photo, header

    order, photo, header = admission.current().run_in_slot(received, chosen.admission_timeout_s)
    fingerprint = pipeline.sha256(pipeline.sha256(photo).encode() + repr(order).encode())
    job = desk.queue.put(order, photo, key or "", fingerprint)
    del photo
    desk.wake()
    applied = {"Preference-Applied": "respond-async"}
    if wait_s is not None:
        applied = {"Preference-Applied": f"wait={wait_s:g}"}
        end = time.monotonic() + wait_s
        while not job.ended and time.monotonic() < end and not draining.now():
            time.sleep(LOOK_S)
            job = desk.queue.get(job.id, request.caller)
    answer = _answer(job, 200 if job.ended else 202)
    answer.headers.update({"Location": f"/predictions/{job.id}", **applied})
    return answer._replace(facts=pipeline.header_facts(header))


def show(request: Request) -> Response:
    """GET /predictions/{id}: how far it is, and its outcome; 304 if that is known by its ETag."""
    job = selection.current().queue.get(request.names["id"], request.caller)
    return messages.tagged(request, _answer(job))


def cancel(request: Request) -> Response:
    """POST /predictions/{id}/cancel: end it; its image goes at once."""
    canceled = selection.current().queue.cancel(request.names["id"], request.caller)
    metrics.add("macule_jobs_total", canceled.status, "")
    return _answer(canceled)


def _answer(job: Job, status: int = 200) -> Response:
    answer = messages.as_json(jobs.document(job), status)
    if not job.ended:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def _webhook(texts: Mapping[str, str], chosen: settings.Settings) -> dict[str, Any]:
    """Read whom to tell, and of which events."""
    url = texts.get("webhook", "").strip()
    if url and not chosen.webhook_secrets:
        raise NoWebhooks(
            "This service sends no webhooks, as its operator has set no WEBHOOK_SECRETS. Send the "
            "request without one, and poll what Location names."
        )
    if url:
        from macule.jobs.webhooks import messages

        messages.check(url, chosen.webhook_loopback)
    events = tuple(part.strip() for part in texts.get("webhook_events_filter", "").split(","))
    unknown = set(events) - {*jobs.EVENTS, ""}
    if unknown:
        raise BadRequest(f"webhook_events_filter knows {' and '.join(jobs.EVENTS)} alone.")
    wanted = tuple(event for event in jobs.EVENTS if event in events) or jobs.EVENTS
    return {"webhook": url, "events": wanted if url else ()}


def _wait(prefer: str) -> float | None:
    """Return the seconds of `Prefer: wait=N`, at most MOST_WAIT_S; None without it (RFC 7240)."""
    for part in prefer.lower().replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        text = value.strip(' "')
        if name.strip() == "wait" and text.isascii() and text.isdigit():
            return min(float(text[:6]), MOST_WAIT_S)
    return None
