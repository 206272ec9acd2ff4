"""Predictions that outlive a request: what a job is, and what every queue of them does.

A job is made `starting`, then `processing`, and ends once: `succeeded`, `failed` or `canceled`. Its
image is kept until it has ended, its answer for JOB_TTL_S after that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from macule.errors import KeyInUse, KeyReused
from macule.inference.activation_maps import MAX_CHARACTERS

STARTING, PROCESSING = "starting", "processing"
SUCCEEDED, FAILED, CANCELED = "succeeded", "failed", "canceled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELED})
STARTED_EVENT, COMPLETED_EVENT = "prediction.started", "prediction.completed"
EVENTS = (STARTED_EVENT, COMPLETED_EVENT)
FILE = "jobs.sqlite3"  # of the embedded queue, in DATA_DIR
MOST_ATTEMPTS = 3  # a job whose worker died so often is not tried again: it may be what kills them
LABELS = 64  # of a model that is not known yet
ANSWER_BYTES, LABEL_BYTES = 2000, 200  # an outcome without maps: as such, and of each label
DIED = (
    f"Its worker died {MOST_ATTEMPTS} times while it was worked on: the image may be what kills it."
)


class Order(NamedTuple):
    """What a caller asks for, beside the image.

    `owner` is the name of the key that asked, "" where there are no keys: a job is shown to its
    owner alone. `events` are those of EVENTS that are told to `webhook`.
    """

    top_k: int | None = None
    with_cam: bool = False
    webhook: str = ""
    events: tuple[str, ...] = ()
    owner: str = ""


class Job(NamedTuple):
    """What is known of a job; times in seconds since 1970.

    `outcome` is the answer of one that succeeded, the problem document of one that failed.
    `attempts` counts how often a worker has taken it.
    """

    id: str
    status: str
    order: Order
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Mapping[str, Any] | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Held(NamedTuple):
    """Bytes that a queue takes, and may take."""

    bytes: int
    most_bytes: int


def rooms(order: Order, labels: int | None = None) -> dict[str, int]:
    """Return the most bytes that the begin and the end of a job add to what is kept."""
    outcome = ANSWER_BYTES + LABEL_BYTES * (labels or LABELS)
    told = {event: outcome + 2 * len(order.webhook) for event in order.events if order.webhook}
    maps = MAX_CHARACTERS if order.with_cam else 0
    return {**told, COMPLETED_EVENT: told.get(COMPLETED_EVENT, 0) + outcome + maps}


def document(job: Job) -> dict[str, Any]:
    """Describe a job to its owner: an answer as of POST /predict/ once it has succeeded."""
    shown: dict[str, Any] = {"id": job.id, "status": job.status}
    if job.status == SUCCEEDED and job.outcome:
        shown = {**job.outcome, **shown}
    if job.status == FAILED:
        shown["error"] = job.outcome
    times = {
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.ended_at,
    }
    return {**shown, **{name: _date(seconds) for name, seconds in times.items()}}


def _date(seconds: float | None) -> str | None:
    from datetime import UTC, datetime

    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def asked(order: Order) -> str:
    """Write what a queue keeps of an order; its owner is kept apart, to be searched for."""
    return json.dumps(order._replace(owner=""))


def ordered(text: str, owner: str) -> Order:
    """Read what `asked` wrote."""
    top_k, with_cam, webhook, events, _ = json.loads(text)
    return Order(top_k, with_cam, webhook, tuple(events), owner)


def known(job: Job, before: str, fingerprint: str) -> Job:
    """Return the job that an Idempotency-Key made before, by a request of the print *before*.

    Raises: KeyReused, KeyInUse.
    """
    if before != fingerprint:
        raise KeyReused("This Idempotency-Key came before, with another image or other wishes.")
    if not job.ended:
        raise KeyInUse("The prediction that this Idempotency-Key made goes on.", prediction=job.id)
    return job


class Queue(Protocol):
    """Where jobs wait and their outcomes are kept. A state only moves forward, whoever dies."""

    def put(self, order: Order, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        """Take a job in.

        *key*: the caller's Idempotency-Key, within what it owns; *fingerprint*: of its request.
        Returns: the new job, or the one that this key made before, once that has ended.
        Raises: QueueFull, KeyInUse while that one has not, KeyReused for another request.
        """

    def get(self, job_id: str, owner: str) -> Job:
        """Return a job of *owner*.

        Raises: NoSuchJob, JobExpired.
        """

    def cancel(self, job_id: str, owner: str) -> Job:
        """End a job; one that is being worked on loses its outcome.

        Raises: NoSuchJob, JobExpired, JobEnded.
        """

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        """End a job that is being worked on; its image goes.

        Returns: False if it has ended already, and this outcome is nobody's.
        """

    def waiting(self) -> int:
        """Return how many jobs have not ended."""

    def undelivered(self) -> int:
        """Return how many webhooks wait."""

    def held(self) -> Held:
        """Return how many bytes are kept: images, outcomes, webhooks, and the room to finish."""
