"""`macule worker`: runs the broker's jobs one at a time, with Celery.

Celery delivers the ids of jobs; the queue stores each job, its lease and its outcome. So a message
that is lost, duplicated or redelivered after its time-out has no effect.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Event, Thread, Timer
from typing import Any, TypeVar
from urllib.parse import urlsplit

from celery import Celery, signals
from celery.worker import state

from macule import settings
from macule.errors import Unavailable
from macule.inference import runtime
from macule.jobs import Job, JobOptions, task
from macule.jobs.broker import lua_scripts, redis_queue
from macule.jobs.broker.redis_queue import Delivery, RedisQueue
from macule.jobs.webhooks import messages
from macule.memory import allocator, processes, recycling
from macule.server import queue_worker_http

T = TypeVar("T")
log = logging.getLogger("macule")
MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # while the queue, memory or the model is unavailable
SWEEP_S = 1.0
RESTART_PAUSE_S = 5.0  # after Celery ended unexpectedly
WEBHOOK_THREADS = 2  # a receiver that hangs blocks only one of them
HEARTBEAT_S = 1.0
STALL_S = 30.0  # after the longest job; then the event loop counts as stalled
MARGIN_S = 300.0  # after the longest job; a late redelivery does no harm

RunJob = Callable[[JobOptions, bytes], tuple[str, Mapping[str, Any]]]
Send = Callable[[str, str, bytes], messages.Outcome]  # url, message id, body


class Worker:
    """A worker process: its current job, and the threads that renew leases and send webhooks.

    Args:
      work: returns the outcome of a job; raises Unavailable if it may be tried again.
      grace_s: time for the current job after `stop`.
      send: see `webhooks.messages.deliver`; without it no webhooks are sent.
      max_job_s: the longest time that a job may take.
    """

    def __init__(
        self,
        queue: RedisQueue,
        work: RunJob,
        wear: recycling.RecyclePolicy,
        grace_s: float,
        send: Send | None = None,
        max_job_s: float = 0.0,
    ) -> None:
        self.restart_reason = ""
        self._queue = queue
        self._work = work
        self._wear = wear
        self._grace_s = grace_s
        self._send = send
        self._max_job_s = max_job_s
        self._held: str | None = None
        self._stopping = Event()
        self._loop_seen_at = self._broker_seen_at = time.monotonic()

    def start(self) -> None:
        """Start the threads for leases and webhooks."""
        Thread(target=self._renew_leases, name="keeper", daemon=True).start()
        if self._send:
            deliver = partial(self._deliver_webhooks, self._send)
            for _ in range(WEBHOOK_THREADS):
                Thread(target=deliver, name="webhooks", daemon=True).start()

    def stop(self) -> None:
        """Finish the current job; after the grace period return it to the queue and exit."""
        self._stopping.set()
        timer = Timer(self._grace_s, self._release_and_exit)
        timer.daemon = True
        timer.start()

    def wait_for_restart(self, wait_s: float) -> str:
        """Return why the worker must restart, *wait_s* after Celery failed; "" if stopped."""
        if self.restart_reason or self._stopping.is_set():
            return self.restart_reason
        log.error("Celery ended unexpectedly; the worker restarts in %.0f s", wait_s)
        return "" if self._stopping.wait(wait_s) else "Celery ended"

    def heartbeat(self) -> None:
        """Record that Celery's event loop runs."""
        self._loop_seen_at = time.monotonic()

    def fault(self) -> str:
        """Return why this worker takes no jobs; "" if it does."""
        now = time.monotonic()
        away_s, stalled_s = now - self._broker_seen_at, now - self._loop_seen_at
        if away_s > self._queue.lease_s:
            return f"the broker has not answered for {away_s:.0f} s"
        if stalled_s > self._max_job_s + STALL_S:
            return f"the event loop has been stalled for {stalled_s:.0f} s"
        return ""

    def run_job(self, job_id: str) -> None:
        """Run a job unless it has ended or another worker has it."""
        self._held = job_id  # before it is taken: a stop between both still returns it
        try:
            taken = self._retry(lambda: self._queue.take(job_id))
            if taken is not None:
                self._run_taken(job_id, *taken)
        finally:
            self._held = None

    def _run_taken(self, job_id: str, job: Job, image: bytes, returned: int) -> None:
        try:
            status, outcome = self._work(job.options, image)
        except Unavailable as error:
            pause_s = _retry_pause_s(returned)
            log.warning("job %s waits for %.0f s: %s", job_id, pause_s, error)
            self._retry(lambda: self._queue.requeue(job_id, pause_s))
        except BaseException:  # the process must end now
            self._queue.requeue(job_id)
            raise
        else:  # stored even when the process stops: otherwise the job would run again
            self._retry(lambda: self._queue.finish(job_id, status, outcome), until_done=True)
            self.restart_reason = self._wear.add(processes.private_bytes, time.monotonic())

    def _renew_leases(self) -> None:
        """Renew the lease of the current job, and return expired ones to the queue."""
        pause_s = min(SWEEP_S, self._queue.lease_s / 5)
        while True:
            held = self._held
            with suppress(Unavailable):  # Celery and `_retry` log it
                if held:
                    self._queue.renew(held)
                for job_id in self._queue.sweep():
                    log.error("job %s failed: its workers died", job_id)
                self._record_contact()
            time.sleep(pause_s)

    def _record_contact(self) -> None:
        """Record that the broker answers; after an outage, give Celery time to reconnect."""
        now = time.monotonic()
        if now - self._broker_seen_at > self._queue.lease_s:
            self._loop_seen_at = now
        self._broker_seen_at = now

    def _deliver_webhooks(self, send: Send) -> None:
        while not self._stopping.is_set():
            delivery = self._retry(self._queue.claim_webhook)
            if delivery is None:
                self._stopping.wait(SWEEP_S)
                continue
            pause_s = _deliver(delivery, send)
            self._retry(partial(self._queue.reschedule_webhook, delivery, pause_s))

    def _release_and_exit(self) -> None:
        held = self._held
        if held:
            log.warning("job %s is returned to the queue: it did not finish in time", held)
            with suppress(Unavailable):  # then its lease expires
                self._queue.requeue(held)
        os._exit(0)

    def _retry(self, action: Callable[[], T], until_done: bool = False) -> T | None:
        """Retry *action* while it is unavailable, with growing pauses, until the process stops."""
        pause_s = MIN_PAUSE_S
        while True:
            try:
                return action()
            except Unavailable as error:
                log.warning("%s", error)
            if self._stopping.is_set() and not until_done:
                return None
            time.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, pause_s * 2)


def serve(
    chosen: settings.Settings,
    lease_s: float = redis_queue.WORKER_LEASE_S,
    sweep_after_s: float = redis_queue.SWEEP_AFTER_S,
) -> str:
    """Run jobs until SIGTERM, until this process must be recycled, or until Celery fails.

    Returns: why another process must replace this one, else "".
    Raises: BadSetting, ModelUnavailable, before the first job.
    """
    allocator.configure()
    url, port = chosen.broker_url or "", chosen.worker_metrics_port
    host = chosen.bind.rpartition(":")[0].strip("[]")
    listener = None if port is None else queue_worker_http.listen(host, port)
    queue = RedisQueue(url, chosen.job_ttl_s, chosen.max_jobs, lease_s, sweep_after_s)
    warm = runtime.get_or_load(chosen.model)
    run_job, wear = partial(task.run, chosen=chosen), recycling.create_policy(chosen)
    secrets, loopback = chosen.webhook_secrets, chosen.webhook_loopback
    send = partial(messages.deliver, secrets=secrets, loopback=loopback) if secrets else None
    worker = Worker(queue, run_job, wear, chosen.graceful_timeout_s, send, max_job_s(chosen))
    app = Celery("macule", broker=url, set_as_current=False)
    app.conf.update(celery_configuration(chosen))

    @app.task(name=redis_queue.TASK)  # type: ignore[untyped-decorator]
    def predict(job_id: str) -> None:
        worker.run_job(job_id)
        if worker.restart_reason:
            state.should_stop = 0

    def on_ready(sender: Any, **_: Any) -> None:
        sender.hub.call_repeatedly(HEARTBEAT_S, worker.heartbeat)
        # not before Celery listens to SIGTERM
        log.info("worker %d is ready: %s %s", os.getpid(), warm.card.name, warm.card.version)

    def on_shutdown(**_: Any) -> None:
        worker.stop()

    signals.setup_logging.connect(_ignore)  # the command has configured logging
    signals.worker_ready.connect(on_ready)
    signals.worker_shutting_down.connect(on_shutdown)
    # One process and one job at a time: the model is loaded once; run a second worker for a second
    # core. Messages between workers would cost each a connection and 4 MB.
    celery = app.Worker(
        pool="solo",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    if listener:
        queue_worker_http.start(listener, worker.fault)
    celery.start()
    # Celery ends, for example, if the broker has no memory left for commands
    if reason := worker.wait_for_restart(RESTART_PAUSE_S):
        recycling.log_recycle(reason)
    return reason


def max_job_s(chosen: settings.Settings) -> float:
    """Return the longest time of a job, in seconds, with the download of a model."""
    fetch_s = chosen.model.timeout_s if isinstance(chosen.model, settings.Source) else 0.0
    return fetch_s + 3 * chosen.admission_timeout_s + 2 * chosen.decode_timeout_s


def celery_configuration(chosen: settings.Settings) -> dict[str, Any]:
    return {
        "accept_content": ["json"],
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "global_keyprefix": lua_scripts.CELERY,
            "priority_steps": [0],
            "socket_connect_timeout": redis_queue.TIMEOUT_S,
            "socket_keepalive": True,
            "socket_timeout": 5 * redis_queue.TIMEOUT_S,
            "visibility_timeout": max_job_s(chosen) + MARGIN_S,
        },
        "task_acks_late": True,
        "task_default_queue": lua_scripts.QUEUE,
        "task_ignore_result": True,
        "task_reject_on_worker_lost": True,
        "worker_enable_remote_control": False,
        "worker_prefetch_multiplier": 1,
    }


def _deliver(delivery: Delivery, send: Send) -> float | None:
    """Try to deliver a webhook; return the pause until the next try, None if there is none."""
    try:
        outcome = send(delivery.url, delivery.message_id, delivery.body)
    except Exception:  # otherwise the thread would end, and webhooks with it
        log.exception("a webhook failed")
        outcome = messages.Outcome("retry", "failed on our side")
    attempts = delivery.attempts + 1
    pause_s = messages.retry_delay_s(attempts) if outcome.state == "retry" else None
    if pause_s is not None:
        return max(pause_s, outcome.after_s)
    messages.log_outcome(outcome, attempts, str(urlsplit(delivery.url).hostname))
    return None


def _ignore(**_: Any) -> None:
    """Prevent Celery from configuring logging."""


def _retry_pause_s(returned: int) -> float:
    """Return the pause of a job that was *returned* to the queue so often, in seconds."""
    return min(MAX_PAUSE_S, 2.0**returned) * random.uniform(0.5, 1.0)  # noqa: S311
