"""How one image of a batch becomes a row: by this process, or by the workers of a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

from macule.batch import source
from macule.errors import BadImage, Busy, Macule, ModelUnavailable, QueueFull, Unavailable
from macule.inference import pipeline
from macule.jobs import FAILED, SUCCEEDED, Order, Queue
from macule.settings import Settings

Score = Callable[[bytes], Mapping[str, Any]]
Row = dict[str, Any]
TRIES = 30
POLL_S, SLOWEST_POLL_S = 0.02, 1.0


def columns(labels: list[str]) -> list[str]:
    """Name what a row has, in its order."""
    first = ["source", "status", "decision", "label", "probability"]
    return [*first, *(f"p_{label}" for label in labels), "error", "model"]


def row(name: str, score: Score, max_bytes: int, labels: list[str], stop: Event) -> Row:
    """Answer one image; what is wrong with it is an answer too.

    Raises: Unavailable for what is wrong with more than this image, so that it is no answer.
    """
    found: Row = dict.fromkeys(columns(labels))
    found["source"] = shown(name)
    try:
        answer = _patiently(lambda: score(source.read(name, max_bytes)), stop)
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
        "label": best["label"],
        "probability": best["probability"],
        **shares,
        "model": answer["model"]["sha256"],
    }


def shown(name: str) -> str:
    """Write a name as text, even where the bytes of a file's name are none."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def local(chosen: Settings) -> Score:
    """Answer in this process."""

    def score(body: bytes) -> Mapping[str, Any]:
        try:
            return pipeline.predict(body, chosen).answer
        except ModelUnavailable as error:  # it is loaded: this image makes its numbers none
            raise BadImage(str(error)) from error

    return score


def through(queue: Queue, stop: Event) -> Score:
    """Have the workers of *queue* answer; each call has one job there, and waits for its end."""

    def score(body: bytes) -> Mapping[str, Any]:
        job = None
        while job is None:
            try:
                job = queue.put(Order(), body)
            except QueueFull as error:  # of others' jobs, maybe: ours come when there is room
                pause(stop, error.retry_after_s)
        poll_s = POLL_S
        while not job.ended:
            pause(stop, poll_s)
            poll_s = min(poll_s * 1.5, SLOWEST_POLL_S)
            job = queue.get(job.id, job.order.owner)
        outcome = job.outcome or {}
        if job.status == SUCCEEDED:
            return outcome
        if job.status == FAILED and outcome.get("status") != Busy.status:
            raise _refusal(outcome)
        raise Busy(f"A worker has not answered: {outcome.get('detail', job.status)}")

    return score


def _refusal(problem: Mapping[str, Any]) -> Macule:
    """Turn what a worker says of an image back into the failure it was."""
    error = Macule(str(problem.get("detail", "")))
    error.slug = str(problem.get("type", "")).rpartition(":")[2] or error.slug
    return error


def pause(stop: Event, wait_s: float) -> None:
    """Wait, unless the batch is broken off."""
    if stop.wait(wait_s):
        raise KeyboardInterrupt


def _patiently(action: Callable[[], Mapping[str, Any]], stop: Event) -> Mapping[str, Any]:
    """Try again while others hold the memory, or the queue's store is away for some minutes."""
    for _ in range(TRIES - 1):
        try:
            return action()
        except ModelUnavailable:
            raise  # has been tried again
        except Unavailable as error:
            pause(stop, error.retry_after_s)
    return action()
