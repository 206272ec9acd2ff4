"""The queue on Redis or Valkey, for web processes and workers on any number of machines.

Imported, with redis-py, only if BROKER_URL is set. Web processes do not import Celery: they write
its message themselves, atomically with the job.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from macule import errors, jobs
from macule.jobs import Job, JobOptions, Usage
from macule.jobs.broker import lua_scripts
from macule.jobs.broker.outage import Outage, address
from macule.observability import metrics

TIMEOUT_S = 2.0  # per request to the server: polling callers get a 503 soon
MAX_CONNECTIONS = 32  # per process; a request uses one for about 1 ms
MAX_WAIT_S = 86400.0  # how long a job and its image wait for a worker
EXPIRED_ID_TTL_S = 86400.0  # so long the id of a deleted job gets JobExpired instead of NoSuchJob
WORKER_LEASE_S = 15.0  # a worker that has not renewed its job for so long is dead
SWEEP_AFTER_S = 10.0  # age at which the sweep checks that a waiting job has a message
WEBHOOK_LEASE_S = 120.0  # after which an undelivered claimed webhook is due again
WEBHOOK_TTL_S = 2 * 86400.0  # longer than its delivery is tried
TASK = "macule.predict"
# Celery's protocol 2 in kombu's envelope for Redis. The body is not base64, so that a script can
# write it; the same id gives the same bytes, so that a script can find it.
MESSAGE = json.dumps(
    {
        "body": '[["JOB"],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": TASK, "id": "JOB", "root_id": "JOB"},
        "properties": {
            "correlation_id": "JOB",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": lua_scripts.QUEUE},
            "delivery_tag": "JOB",
            "priority": 0,
        },
    }
)
DIED_PROBLEM = json.dumps(errors.problem_document(errors.WorkerDied(jobs.WORKER_DIED)))


class Taken(NamedTuple):
    """A job to run, its image, and how often it was requeued."""

    job: Job
    image: bytes
    returned: int


class Delivery(NamedTuple):
    """A webhook to deliver; `attempts` counts the failed ones."""

    name: str
    attempts: int
    message_id: str
    url: str
    body: bytes


class RedisQueue:
    """The queue at *url*; implements `jobs.Queue`.

    Args:
      ttl_s: how long an outcome is stored.
      max_jobs: jobs that may wait.
      lease_s, sweep_after_s: WORKER_LEASE_S and SWEEP_AFTER_S; shorter in tests.
      max_bytes: of images, outcomes and webhooks together.
      labels: returns the number of the model's labels, if known.
    """

    def __init__(
        self,
        url: str,
        ttl_s: float,
        max_jobs: int,
        lease_s: float = WORKER_LEASE_S,
        sweep_after_s: float = SWEEP_AFTER_S,
        max_bytes: int = 256 * jobs.MB,
        labels: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._ttl_ms = int(ttl_s * 1e3)
        self._max_bytes, self._labels = max_bytes, labels
        self._max_jobs = max_jobs
        self.lease_s = lease_s
        self._sweep_after_s = sweep_after_s
        self._id = os.urandom(12).hex()
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                # a connection that the server closed is reopened once, immediately
                retry=Retry(ConstantBackoff(0.05), 1, (redis.ConnectionError,)),
            )
        except ValueError:  # its text may contain the password
            raise errors.BadSetting("BROKER_URL is not a Redis or Valkey URL.") from None
        self._outage = Outage(address(pool))
        self._redis = redis.Redis(connection_pool=pool)
        register = self._redis.register_script
        self._scripts = {name: register(text) for name, text in lua_scripts.read_all().items()}

    def put(self, options: JobOptions, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        job_id = os.urandom(12).hex()
        answer, *details = self._call(
            "put",
            job_id,
            jobs.serialize_options(options),
            options.owner,
            ",".join(options.events if options.webhook else ()),
            key and sha256(f"{options.owner}\0{key}".encode()).hexdigest(),
            fingerprint,
            image,
            self._max_jobs,
            self._ttl_ms,
            int(MAX_WAIT_S * 1e3),
            int(EXPIRED_ID_TTL_S * 1e3),
            self._sweep_after_s,
            MESSAGE.replace("JOB", job_id),
            sum(jobs.reserved_bytes(options, self._labels()).values()),
            self._max_bytes,
            lua_scripts.FREE_MEMORY_DIVISOR,
            lua_scripts.EXPIRED_ID_BYTES,
            lua_scripts.MAX_EXPIRED_IDS,
            lua_scripts.EXPIRED_IDS_DIVISOR,
        )
        self._raise_rejection(answer, details)
        if answer == b"new":
            return Job(job_id, jobs.STARTING, options, float(details[0]))
        known, previous, found = details
        return jobs.existing_job(_job(known.decode(), found), previous.decode(), fingerprint)

    def get(self, job_id: str, owner: str) -> Job:
        with self._outage.watched():
            found: Any = self._redis.hgetall(f"{lua_scripts.PREFIX}job:{job_id}")
        if not found or found[b"owner"].decode() != owner:
            raise self._missing(job_id, owner)
        return _job(job_id, found)

    def cancel(self, job_id: str, owner: str) -> Job:
        answer, found = self._call("cancel", job_id, owner)
        if answer == b"none":
            raise self._missing(job_id, owner)
        job = _job(job_id, found)
        if answer == b"ended":
            raise jobs.already_ended(job)
        return job

    def take(self, job_id: str) -> Taken | None:
        """Take a job under a lease; None if it has ended or another worker has it.

        A job whose worker died is taken again, at most jobs.MAX_ATTEMPTS times in all.
        """
        answer = self._call("take", job_id, self._id, self.lease_s, jobs.MAX_ATTEMPTS, DIED_PROBLEM)
        if answer == [b"parked"]:
            self._count_parked(1)
        if len(answer) < 2:
            return None
        found, image = _pairs(answer[0]), answer[1]
        return Taken(_job(job_id, found), image, int(found[b"returned"]))

    def renew(self, job_id: str) -> bool:
        """Renew the lease of a job; return False if it no longer belongs to this worker."""
        return bool(self._call("renew", job_id, self._id, self.lease_s))

    def requeue(self, job_id: str, pause_s: float = 0.0) -> bool:
        """Put a taken job back for at least *pause_s*; this does not count as an attempt."""
        return bool(self._call("requeue", job_id, self._id, pause_s))

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        text = json.dumps(outcome, ensure_ascii=False)
        return bool(self._call("finish", job_id, self._id, status, text))

    def waiting(self) -> int:
        with self._outage.watched():
            found: Any = self._redis.zcard(f"{lua_scripts.PREFIX}open")
        return int(found)

    def undelivered(self) -> int:
        with self._outage.watched():
            found: Any = self._redis.zcard(f"{lua_scripts.PREFIX}due")
        return int(found)

    def usage(self) -> Usage:
        with self._outage.watched():
            sums: Any = self._redis.hget(f"{lua_scripts.PREFIX}sums", "bytes")
            gone: Any = self._redis.zcard(f"{lua_scripts.PREFIX}gone")
        webhooks = lua_scripts.WEBHOOK_BYTES * self.undelivered()
        ids = lua_scripts.EXPIRED_ID_BYTES * int(gone)
        return Usage(int(sums or 0) + webhooks + ids, self._max_bytes)

    def sweep(self) -> list[str]:
        """Send lost messages again; return the ids of jobs failed after dead workers."""
        parked = self._call("sweep", self._sweep_after_s, jobs.MAX_ATTEMPTS, DIED_PROBLEM, MESSAGE)
        self._count_parked(len(parked))
        return [job_id.decode() for job_id in parked]

    def claim_webhook(self) -> Delivery | None:
        """Claim a due webhook exclusively for WEBHOOK_LEASE_S."""
        from macule.jobs.webhooks import messages

        answer = self._call("claim_webhook", WEBHOOK_LEASE_S, int(WEBHOOK_TTL_S * 1e3))
        if not answer:
            return None
        job_id, event, message_id, url = (answer[n].decode() for n in (0, 1, 3, 4))
        attempts, body, found = answer[2], answer[5], answer[6]
        name = f"{job_id} {event}"
        if not message_id:
            job = _job(job_id, found)
            moment = job.ended_at
            if event == jobs.STARTED_EVENT:  # the job may have ended since
                moment = job.started_at
                job = job._replace(status=jobs.PROCESSING, ended_at=None, outcome=None)
            url = job.options.webhook
            message_id, body = messages.build_message(event, jobs.document(job), moment or 0.0)
            self._call("save_webhook", name, message_id, url, body)
        return Delivery(name, attempts, message_id, url, body)

    def reschedule_webhook(self, delivery: Delivery, pause_s: float | None) -> None:
        """Make a webhook due again after *pause_s*; None deletes it."""
        self._call("reschedule_webhook", delivery.name, "" if pause_s is None else pause_s)

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _raise_rejection(self, answer: bytes, figures: list[int]) -> None:
        """Raise the error of a rejected PUT: QueueFull, QueueUnavailable, CannotFit."""
        if answer == b"full":
            raise jobs.too_many_jobs(figures[0])
        if answer == b"memory":
            needed, free = map(jobs.mb, figures)
            why = "The queue's server is out of memory. Try again later."
            raise errors.QueueUnavailable(why, needed_mb=needed, free_mb=free)
        if answer == b"bytes":
            waiting, held, needed, left_s = figures
            error = jobs.out_of_space(needed, held, self._max_bytes, waiting)
            if isinstance(error, errors.QueueFull):
                error.retry_after_s = max(error.retry_after_s, left_s)
            raise error

    def _count_parked(self, count: int) -> None:
        if count:
            metrics.add("macule_jobs_total", jobs.FAILED, errors.WorkerDied.slug, amount=count)

    def _missing(self, job_id: str, owner: str) -> errors.NoSuchJob | errors.JobExpired:
        with self._outage.watched():
            gone: Any = self._redis.zscore(f"{lua_scripts.PREFIX}gone", f"{job_id} {owner}")
        return jobs.missing(was_deleted=gone is not None)

    def _call(self, script: str, *arguments: str | bytes | float) -> Any:
        with self._outage.watched():
            return self._scripts[script](args=arguments)


def _pairs(found: Any) -> dict[bytes, bytes]:
    """Return a hash as a dict; scripts return it as a flat list."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def _job(job_id: str, found: Any) -> Job:
    fields = {name.decode(): value.decode() for name, value in _pairs(found).items()}
    options = jobs.parse_options(fields["asked"], fields["owner"])
    started, ended, outcome = (fields.get(name) for name in ("started_at", "ended_at", "outcome"))
    return Job(
        job_id,
        fields["status"],
        options,
        float(fields["created_at"]),
        float(started) if started else None,
        float(ended) if ended else None,
        json.loads(outcome) if outcome else None,
        int(fields["attempts"]),
    )
