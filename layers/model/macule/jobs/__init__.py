"""Queued predictions: the job, its states and the interface of a queue.

A job is `starting`, then `processing`, and ends once: `succeeded`, `failed` or `canceled`. Its
image is stored until it ends, its outcome for JOB_TTL_S after that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from macule import errors
from macule.inference.activation_maps import MAX_CHARACTERS
from macule.inference.options import DEFAULT_OPTIONS, PredictOptions

STARTING, PROCESSING = "starting", "processing"
SUCCEEDED, FAILED, CANCELED = "succeeded", "failed", "canceled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELED})
STARTED_EVENT, COMPLETED_EVENT = "prediction.started", "prediction.completed"
EVENTS = (STARTED_EVENT, COMPLETED_EVENT)
DATABASE_FILE = "jobs.sqlite3"  # the embedded queue, in DATA_DIR
MB = 2**20
MAX_ATTEMPTS = 3  # after so many dead workers a job fails: its image may be what kills them
DEFAULT_LABELS = 64  # assumed while the model is unknown
ANSWER_BYTES, LABEL_BYTES = 2000, 200  # of an outcome without maps: fixed part, per label
WORKER_DIED = (
    f"The worker died {MAX_ATTEMPTS} times while processing this job; the image may be the cause."
)


class JobOptions(NamedTuple):
    """What a caller asks for, besides the image.

    `owner`: name of the caller's API key, "" without keys; only the owner can see a job.
    `events`: the EVENTS that are sent to `webhook`.
    """

    predict: PredictOptions = DEFAULT_OPTIONS
    webhook: str = ""
    events: tuple[str, ...] = ()
    owner: str = ""


class Job(NamedTuple):
    """A queued prediction; times in seconds since 1970.

    `outcome`: the answer of a succeeded job, the problem document of a failed one.
    `attempts`: how often a worker has taken the job.
    """

    id: str
    status: str
    options: JobOptions
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Mapping[str, Any] | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Usage(NamedTuple):
    """The bytes that a queue stores, and its limit."""

    bytes: int
    max_bytes: int


def reserved_bytes(options: JobOptions, labels: int | None = None) -> dict[str, int]:
    """Return the most bytes that the start and the end of a job add, by event."""
    size = ANSWER_BYTES + LABEL_BYTES * (labels or DEFAULT_LABELS)
    sizes = {event: size + 2 * len(options.webhook) for event in options.events if options.webhook}
    maps = MAX_CHARACTERS if options.predict.with_cam else 0
    return {**sizes, COMPLETED_EVENT: sizes.get(COMPLETED_EVENT, 0) + size + maps}


def document(job: Job) -> dict[str, Any]:
    """Return the JSON of a job; a succeeded one has the members of a POST /predict/ answer."""
    members: dict[str, Any] = {"id": job.id, "status": job.status}
    if job.status == SUCCEEDED and job.outcome:
        members = {**job.outcome, **members}
    if job.status == FAILED:
        members["error"] = job.outcome
    names = "created_at", "started_at", "completed_at"
    times = job.created_at, job.started_at, job.ended_at
    return {**members, **dict(zip(names, map(rfc3339, times), strict=True))}


def rfc3339(seconds: float | None) -> str | None:
    from datetime import UTC, datetime

    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def serialize_options(options: JobOptions) -> str:
    """Serialize options for a queue, without the owner, which has a field of its own.

    Options that are added later come last, and only if they are used: a worker of the previous
    version can read all other jobs.
    """
    top_k, with_cam, *added = options.predict
    added = [] if options.predict[2:] == DEFAULT_OPTIONS[2:] else added
    return json.dumps([top_k, with_cam, options.webhook, options.events, "", *added])


def parse_options(text: str, owner: str) -> JobOptions:
    """Parse the output of `serialize_options`, also of a version with fewer options."""
    top_k, with_cam, webhook, events, _, *added = json.loads(text)
    return JobOptions(PredictOptions(top_k, with_cam, *added), webhook, tuple(events), owner)


def existing_job(job: Job, previous: str, fingerprint: str) -> Job:
    """Return the job that an earlier request with this Idempotency-Key created.

    *previous*: the fingerprint of that request.

    Raises: KeyReused, KeyInUse.
    """
    if previous != fingerprint:
        why = "This Idempotency-Key was already used with a different image or parameters."
        raise errors.KeyReused(why)
    if not job.ended:
        why = "The prediction created with this Idempotency-Key has not ended yet."
        raise errors.KeyInUse(why, prediction=job.id)
    return job


def too_many_jobs(waiting: int) -> errors.QueueFull:
    return errors.QueueFull("Too many predictions are waiting. Try again later.", waiting=waiting)


def out_of_space(
    needed: float, used: float, limit: int, waiting: int
) -> errors.CannotFit | errors.QueueFull:
    """Return the error for a job that *needed* more than the limit, or more than is left of it."""
    if needed > limit:
        why = "This prediction needs more space than the queue may use (MAX_JOBS_MB)."
        return errors.CannotFit(why, needed_mb=mb(needed), limit_mb=mb(limit))
    why = "The queue has used its space (MAX_JOBS_MB). Try again later."
    return errors.QueueFull(why, waiting=waiting, held_mb=mb(used), limit_mb=mb(limit))


def missing(was_deleted: bool) -> errors.NoSuchJob | errors.JobExpired:
    """Return the error for an id of no job, or of one that *was_deleted*."""
    if was_deleted:
        return errors.JobExpired("The prediction has expired and was deleted.")
    return errors.NoSuchJob("There is no prediction with this id.")


def already_ended(job: Job) -> errors.JobEnded:
    return errors.JobEnded(f"The prediction is already {job.status}; it cannot be canceled.")


def mb(size: float) -> float:
    return round(size / MB, 1)


class Queue(Protocol):
    """A store of jobs and outcomes. A job's state never moves back, even if a process dies."""

    def put(self, options: JobOptions, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        """Add a job.

        *key*: the caller's Idempotency-Key, unique per owner; *fingerprint*: of the request.
        Returns: the new job, or the ended job that an earlier request with this key created.
        Raises: QueueFull; KeyInUse if that job has not ended; KeyReused for a different request.
        """

    def get(self, job_id: str, owner: str) -> Job:
        """Return a job of *owner*.

        Raises: NoSuchJob, JobExpired.
        """

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job; the outcome of a running one is discarded.

        Raises: NoSuchJob, JobExpired, JobEnded.
        """

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        """End a running job and delete its image.

        Returns: False if the job has already ended; the outcome is then discarded.
        """

    def waiting(self) -> int:
        """Return how many jobs have not ended."""

    def undelivered(self) -> int:
        """Return how many webhooks are not delivered yet."""

    def usage(self) -> Usage:
        """Return the bytes of images, outcomes, webhooks and the space reserved for outcomes."""
