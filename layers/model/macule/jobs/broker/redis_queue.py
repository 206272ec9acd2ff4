"""The queue on Redis or Valkey, for any number of web processes and workers on any machines.

It is imported only where a broker is set, and redis-py with it. Celery is not: what a web process
sends is one message, written here as Celery's protocol has it, in the same step as the job.
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

from macule import jobs
from macule.errors import (
    BadSetting,
    CannotFit,
    JobEnded,
    JobExpired,
    NoSuchJob,
    QueueFull,
    QueueUnavailable,
    WorkerDied,
    problem_document,
)
from macule.jobs import FAILED, MOST_ATTEMPTS, PROCESSING, STARTED_EVENT, STARTING, Held, Job, Order
from macule.jobs.broker import lua_scripts
from macule.jobs.broker.outage import Outage, address
from macule.observability import metrics

MB = 2**20
TIMEOUT_S = 2.0  # for each step of asking the server: who polls would rather hear 503
MOST_CONNECTIONS = 32  # of one process; a request holds one for a millisecond
KEPT_S = 86400.0  # how long a job may wait for a worker, and its image with it
GONE_S = 86400.0  # how long a job that is no longer kept is told from one that never was
LIVE_S = 15.0  # after its worker last said so, a job's worker is dead
LOOK_S = 10.0  # after which a job that waits is looked after: has it a message?
LEASE_S = 120.0  # after which a webhook that a worker was to deliver is due again
HOOK_S = 2 * 86400.0  # how long what it says is kept: longer than it is tried
TASK = "macule.predict"
# Celery's protocol 2 in kombu's envelope for Redis. The body is readable, not base64, so that a
# script can write it too; the same id makes the same bytes, so that one can be found.
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
PARKED = json.dumps(problem_document(WorkerDied(jobs.DIED)))


class Taken(NamedTuple):
    """A job to be worked on, its image, and how often it was given back."""

    job: Job
    image: bytes
    returned: int


class Delivery(NamedTuple):
    """A webhook that is due; `attempts` are those that failed."""

    name: str
    attempts: int
    message_id: str
    url: str
    body: bytes


class Valkey:
    """The queue at *url*; as `jobs.Queue` has it.

    Args:
      ttl_s: how long an outcome is kept.
      most: jobs that may wait.
      live_s, look_s: as LIVE_S and LOOK_S; shorter in tests.
      most_bytes: of all that is kept, outcomes too.
      labels: how many the model has, as far as that is known.
    """

    def __init__(
        self,
        url: str,
        ttl_s: float,
        most: int,
        live_s: float = LIVE_S,
        look_s: float = LOOK_S,
        most_bytes: int = 256 * MB,
        labels: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._ttl_ms = int(ttl_s * 1e3)
        self._most_bytes, self._labels = most_bytes, labels
        self._most = most
        self.live_s = live_s
        self._look_s = look_s
        self._me = os.urandom(12).hex()
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=MOST_CONNECTIONS,
                timeout=TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                # a connection that the server closed meanwhile is made anew, once and at once
                retry=Retry(ConstantBackoff(0.05), 1, (redis.ConnectionError,)),
            )
        except ValueError:  # its text may have the password
            raise BadSetting("BROKER_URL is no address of Redis or Valkey.") from None
        self._outage = Outage(address(pool))
        self._redis = redis.Redis(connection_pool=pool)
        self._run = {
            name: self._redis.register_script(getattr(lua_scripts, name))
            for name in (
                "PUT",
                "CANCEL",
                "TAKE",
                "FINISH",
                "RENEW",
                "GIVE_BACK",
                "SWEEP",
                "DUE",
                "KEEP",
                "SETTLE",
            )
        }

    def put(self, order: Order, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        job_id = os.urandom(12).hex()
        answer, *more = self._ask(
            "PUT",
            job_id,
            jobs.asked(order),
            order.owner,
            ",".join(order.events if order.webhook else ()),
            key and sha256(f"{order.owner}\0{key}".encode()).hexdigest(),
            fingerprint,
            image,
            self._most,
            self._ttl_ms,
            int(KEPT_S * 1e3),
            int(GONE_S * 1e3),
            self._look_s,
            MESSAGE.replace("JOB", job_id),
            sum(jobs.rooms(order, self._labels()).values()),
            self._most_bytes,
            lua_scripts.MARGIN,
            lua_scripts.GONE_BYTES,
            lua_scripts.MOST_GONE,
            lua_scripts.GONE_PART,
        )
        self._refuse(answer, more)
        if answer == b"new":
            return Job(job_id, STARTING, order, float(more[0]))
        known, before, found = more
        return jobs.known(_job(known.decode(), found), before.decode(), fingerprint)

    def get(self, job_id: str, owner: str) -> Job:
        with self._outage.watched():
            found: Any = self._redis.hgetall(f"{lua_scripts.PREFIX}job:{job_id}")
        if not found or found[b"owner"].decode() != owner:
            raise self._missing(job_id, owner)
        return _job(job_id, found)

    def cancel(self, job_id: str, owner: str) -> Job:
        answer, found = self._ask("CANCEL", job_id, owner)
        if answer == b"none":
            raise self._missing(job_id, owner)
        job = _job(job_id, found)
        if answer == b"ended":
            raise JobEnded(f"The prediction has {job.status}; nothing is left to cancel.")
        return job

    def take(self, job_id: str) -> Taken | None:
        """Take a job, for as long as it is renewed; None if it has ended or somebody has it.

        One whose worker died is taken again, until it has been taken MOST_ATTEMPTS times.
        """
        answer = self._ask("TAKE", job_id, self._me, self.live_s, MOST_ATTEMPTS, PARKED)
        if answer == [b"parked"]:
            self._count_parked(1)
        if len(answer) < 2:
            return None
        found, image = _pairs(answer[0]), answer[1]
        return Taken(_job(job_id, found), image, int(found[b"returned"]))

    def renew(self, job_id: str) -> bool:
        """Say that this worker is alive; False if the job is not its own any more."""
        return bool(self._ask("RENEW", job_id, self._me, self.live_s))

    def give_back(self, job_id: str, pause_s: float = 0.0) -> bool:
        """Let a taken job wait again, *pause_s* at least; that does not count as an attempt."""
        return bool(self._ask("GIVE_BACK", job_id, self._me, pause_s))

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        text = json.dumps(outcome, ensure_ascii=False)
        return bool(self._ask("FINISH", job_id, self._me, status, text))

    def waiting(self) -> int:
        with self._outage.watched():
            found: Any = self._redis.zcard(f"{lua_scripts.PREFIX}open")
        return int(found)

    def undelivered(self) -> int:
        with self._outage.watched():
            found: Any = self._redis.zcard(f"{lua_scripts.PREFIX}due")
        return int(found)

    def held(self) -> Held:
        with self._outage.watched():
            sums: Any = self._redis.hget(f"{lua_scripts.PREFIX}sums", "bytes")
            gone: Any = self._redis.zcard(f"{lua_scripts.PREFIX}gone")
        beside = lua_scripts.HOOK_BYTES * self.undelivered() + lua_scripts.GONE_BYTES * int(gone)
        return Held(int(sums or 0) + beside, self._most_bytes)

    def sweep(self) -> list[str]:
        """Send again what was lost; return the jobs that were given up."""
        parked = self._ask("SWEEP", self._look_s, MOST_ATTEMPTS, PARKED, MESSAGE)
        self._count_parked(len(parked))
        return [job_id.decode() for job_id in parked]

    def due(self) -> Delivery | None:
        """Claim a webhook that is due; for LEASE_S nobody else has it."""
        from macule.jobs.webhooks import messages

        answer = self._ask("DUE", LEASE_S, int(HOOK_S * 1e3))
        if not answer:
            return None
        job_id, event, message_id, url = (answer[n].decode() for n in (0, 1, 3, 4))
        attempts, body, found = answer[2], answer[5], answer[6]
        name = f"{job_id} {event}"
        if not message_id:
            job = _job(job_id, found)
            moment = job.ended_at
            if event == STARTED_EVENT:  # it may have ended since
                moment = job.started_at
                job = job._replace(status=PROCESSING, ended_at=None, outcome=None)
            url = job.order.webhook
            message_id, body = messages.message(event, jobs.document(job), moment or 0.0)
            self._ask("KEEP", name, message_id, url, body)
        return Delivery(name, attempts, message_id, url, body)

    def settle(self, delivery: Delivery, pause_s: float | None) -> None:
        """Let a webhook be due again after *pause_s*; None ends it."""
        self._ask("SETTLE", delivery.name, "" if pause_s is None else pause_s)

    def close(self) -> None:
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _refuse(self, answer: bytes, figures: list[int]) -> None:
        """Raises: QueueFull, QueueUnavailable, CannotFit, where that is what PUT answered."""
        if answer == b"full":
            raise QueueFull("Too many predictions wait. Try again.", waiting=figures[0])
        if answer == b"memory":
            needed, free = figures
            why = "The memory of the queue's server is full. Try again later."
            raise QueueUnavailable(why, needed_mb=_mb(needed), free_mb=_mb(free))
        if answer != b"bytes":
            return
        waiting, held, needed, left_s = figures
        limit_mb = _mb(self._most_bytes)
        if needed > self._most_bytes:
            why = "This prediction needs more space than all may take (MAX_JOBS_MB)."
            raise CannotFit(why, needed_mb=_mb(needed), limit_mb=limit_mb)
        why = "Predictions take as much space as they may (MAX_JOBS_MB). Try again later."
        full = QueueFull(why, waiting=waiting, held_mb=_mb(held), limit_mb=limit_mb)
        full.retry_after_s = max(full.retry_after_s, left_s)
        raise full

    def _count_parked(self, count: int) -> None:
        if count:
            metrics.add("macule_jobs_total", FAILED, WorkerDied.slug, amount=count)

    def _missing(self, job_id: str, owner: str) -> NoSuchJob | JobExpired:
        with self._outage.watched():
            gone: Any = self._redis.zscore(f"{lua_scripts.PREFIX}gone", f"{job_id} {owner}")
        if gone is not None:
            return JobExpired("The prediction is no longer kept.")
        return NoSuchJob("There is no prediction of that id.")

    def _ask(self, script: str, *arguments: str | bytes | float) -> Any:
        with self._outage.watched():
            return self._run[script](args=arguments)


def _mb(size: float) -> float:
    return round(size / MB, 1)


def _pairs(found: Any) -> dict[bytes, bytes]:
    """Read a hash: a script gives it as a list."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def _job(job_id: str, found: Any) -> Job:
    kept = {name.decode(): value.decode() for name, value in _pairs(found).items()}
    order = jobs.ordered(kept["asked"], kept["owner"])
    started, ended, outcome = (kept.get(name) for name in ("started_at", "ended_at", "outcome"))
    return Job(
        job_id,
        kept["status"],
        order,
        float(kept["created_at"]),
        float(started) if started else None,
        float(ended) if ended else None,
        json.loads(outcome) if outcome else None,
        int(kept["attempts"]),
    )
