"""Routes of queued predictions: create, show, cancel."""

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
from macule.jobs import Job, JobOptions, selection
from macule.memory import admission
from macule.observability import metrics
from macule.routes import classify

MAX_WAIT_S = 60.0
POLL_S = 0.03  # between polls while a caller waits for a job
RETRY_AFTER_S = 1
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")


def create(request: Request) -> Response:
    """POST /predictions: add a job and return its location.

    Query as POST /predict/. Headers: `Prefer: respond-async` or `wait=N`, `Idempotency-Key`.
    """
    chosen, queue = settings.current(), selection.active_queue()
    wanted = classify.parse_query(request)
    wait_s = _wait(request.headers.get("prefer", ""))
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("The Idempotency-Key is not 1 to 128 visible ASCII characters.")
    classify.expect_upload(request, chosen)

    def read_job() -> tuple[JobOptions, bytes, decoding.Header]:
        image, texts, _ = classify.read_upload(request, chosen)
        header = decoder_threads.inspect(image, chosen)  # rejects invalid images at once
        options = JobOptions(wanted, owner=request.caller, **_webhook(texts, chosen))
        return options, image, header

    options, image, header = admission.current().run_in_slot(read_job, chosen.admission_timeout_s)
    fingerprint = pipeline.sha256(pipeline.sha256(image).encode() + repr(options).encode())
    job = queue.queue.put(options, image, key or "", fingerprint)
    del image
    queue.wake()
    applied = {"Preference-Applied": "respond-async"}
    if wait_s is not None:
        applied = {"Preference-Applied": f"wait={wait_s:g}"}
        end = time.monotonic() + wait_s
        while not job.ended and time.monotonic() < end and not draining.is_draining():
            time.sleep(POLL_S)
            job = queue.queue.get(job.id, request.caller)
    answer = _answer(job, 200 if job.ended else 202)
    answer.headers.update({"Location": f"/predictions/{job.id}", **applied})
    return answer._replace(facts=pipeline.header_facts(header))


def show(request: Request) -> Response:
    """GET /predictions/{id}: status and outcome; 304 if the ETag matches."""
    job = selection.active_queue().queue.get(request.names["id"], request.caller)
    return messages.with_etag(request, _answer(job))


def cancel(request: Request) -> Response:
    """POST /predictions/{id}/cancel: cancel the job and delete its image."""
    canceled = selection.active_queue().queue.cancel(request.names["id"], request.caller)
    metrics.add("macule_jobs_total", canceled.status, "")
    return _answer(canceled)


def _answer(job: Job, status: int = 200) -> Response:
    answer = messages.json_response(jobs.document(job), status)
    if not job.ended:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def _webhook(texts: Mapping[str, str], chosen: settings.Settings) -> dict[str, Any]:
    url = texts.get("webhook", "").strip()
    if url and not chosen.webhook_secrets:
        raise NoWebhooks(
            "This service sends no webhooks because WEBHOOK_SECRETS is not set. Send the request "
            "without a webhook and poll the URL in Location."
        )
    if url:
        from macule.jobs.webhooks import messages

        messages.validate_url(url, chosen.webhook_loopback)
    events = tuple(part.strip() for part in texts.get("webhook_events_filter", "").split(","))
    unknown = set(events) - {*jobs.EVENTS, ""}
    if unknown:
        raise BadRequest(f"webhook_events_filter supports only {' and '.join(jobs.EVENTS)}.")
    selected = tuple(event for event in jobs.EVENTS if event in events) or jobs.EVENTS
    return {"webhook": url, "events": selected if url else ()}


def _wait(prefer: str) -> float | None:
    """Return the seconds of `Prefer: wait=N`, at most MOST_WAIT_S; None without it (RFC 7240)."""
    for part in prefer.lower().replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        text = value.strip(' "')
        if name.strip() == "wait" and text.isascii() and text.isdigit():
            return min(float(text[:6]), MAX_WAIT_S)
    return None
