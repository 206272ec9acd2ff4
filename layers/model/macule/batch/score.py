"""Scoring of one image of a batch: in this process or by the workers of a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

from macule.batch import source
from macule.errors import BadImage, Busy, Macule, ModelUnavailable, QueueFull, Unavailable
from macule.inference import pipeline
from macule.jobs import FAILED, SUCCEEDED, JobOptions, Queue
from macule.settings import Settings

Scorer = Callable[[bytes], Mapping[str, Any]]
Row = dict[str, Any]
TRIES = 30
POLL_S, MAX_POLL_S = 0.02, 1.0


def columns(labels: list[str]) -> list[str]:
    first = ["source", "status", "decision", "reason", "label", "probability"]
    return [*first, *(f"p_{label}" for label in labels), "error", "model"]


def score_row(name: str, scorer: Scorer, max_bytes: int, labels: list[str], stop: Event) -> Row:
    """Score one image; an error of this image becomes a row too.

    Raises: Unavailable for errors that are not specific to this image.
    """
    found: Row = dict.fromkeys(columns(labels))
    found["source"] = printable(name)
    try:
        answer = _with_retries(lambda: scorer(source.read_image(name, max_bytes)), stop)
    except Unavailable:
        raise
    except Macule as error:
        return {**found, "status": error.slug, "error": str(error)}
    best = answer["predictions"][0]
    shares = {f"p_{each['label']}": each["probability"] for each in answer["predictions"]}
    return {
        **found,
        "status": "ok",
        "decision": answer["decision"],
        "reason": answer.get("reason"),
        "label": best["label"],
        "probability": best["probability"],
        **shares,
        "model": answer["model"]["sha256"],
    }


def printable(name: str) -> str:
    """Return a name as valid text; undecodable bytes are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def local_scorer(chosen: Settings) -> Scorer:
    """Return a scorer that uses the model in this process."""

    def score(body: bytes) -> Mapping[str, Any]:
        try:
            return pipeline.predict(body, chosen).answer
        except ModelUnavailable as error:  # the model is loaded: this image gave NaN
            raise BadImage(str(error)) from error

    return score


def queue_scorer(queue: Queue, stop: Event) -> Scorer:
    """Return a scorer that adds a job to *queue* and waits for its end."""

    def score(body: bytes) -> Mapping[str, Any]:
        job = None
        while job is None:
            try:
                job = queue.put(JobOptions(), body)
            except QueueFull as error:  # maybe of other callers' jobs: wait for space
                wait_or_stop(stop, error.retry_after_s)
        poll_s = POLL_S
        while not job.ended:
            wait_or_stop(stop, poll_s)
            poll_s = min(poll_s * 1.5, MAX_POLL_S)
            job = queue.get(job.id, job.options.owner)
        outcome = job.outcome or {}
        if job.status == SUCCEEDED:
            return outcome
        if job.status == FAILED and outcome.get("status") != Busy.status:
            raise _error_from(outcome)
        raise Busy(f"A worker has not answered: {outcome.get('detail', job.status)}")

    return score


def _error_from(problem: Mapping[str, Any]) -> Macule:
    """Turn a worker's problem document back into an error."""
    error = Macule(str(problem.get("detail", "")))
    error.slug = str(problem.get("type", "")).rpartition(":")[2] or error.slug
    return error


def wait_or_stop(stop: Event, wait_s: float) -> None:
    """Wait; raise KeyboardInterrupt if the batch is stopped."""
    if stop.wait(wait_s):
        raise KeyboardInterrupt


def _with_retries(action: Callable[[], Mapping[str, Any]], stop: Event) -> Mapping[str, Any]:
    """Retry while memory is in use by others or the queue is unavailable, for some minutes."""
    for _ in range(TRIES - 1):
        try:
            return action()
        except ModelUnavailable:
            raise  # has already been retried
        except Unavailable as error:
            wait_or_stop(stop, error.retry_after_s)
    return action()
