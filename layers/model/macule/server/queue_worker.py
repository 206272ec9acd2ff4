"""`macule worker`: the broker's jobs, one at a time, by Celery; loaded by that command alone.

Celery brings the ids of jobs; what a job is, who has it and how it ended is the queue's to know. So
a message that is lost, or comes twice, or comes back after its time-out, changes nothing.
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
from macule.jobs import Order, task
from macule.jobs.broker import lua_scripts
from macule.jobs.broker.redis_queue import LIVE_S, LOOK_S, TASK, TIMEOUT_S, Delivery, Valkey
from macule.jobs.webhooks import messages
from macule.memory import allocator, processes, recycling
from macule.server import queue_worker_http

T = TypeVar("T")
log = logging.getLogger("macule")
LEAST_PAUSE_S, MOST_PAUSE_S = 0.5, 30.0  # while the queue, memory or the model is short
SWEEP_S = 1.0
ANEW_S = 5.0  # after Celery gave up
SENDERS = 2  # threads that deliver webhooks: one receiver that hangs leaves others room
BEAT_S = 1.0
STILL_S = 30.0  # beyond what a job may take, after which the loop stands still
MARGIN_S = 300.0  # beyond what a job may wait for; it costs nothing that a time-out comes late

Work = Callable[[Order, bytes], tuple[str, Mapping[str, Any]]]
Send = Callable[[str, str, bytes], messages.Outcome]  # url, message id, body


class Worker:
    """One process at the queue: what it holds, and the thread that says it is alive.

    Args:
      work: makes the outcome of a job; Unavailable means that it may be tried again.
      grace_s: what the job at hand may take after `leave`.
      send: as webhooks.deliver; without it webhooks stay due.
      longest_s: what a job may take.
    """

    def __init__(
        self,
        queue: Valkey,
        work: Work,
        wear: recycling.RecyclePolicy,
        grace_s: float,
        send: Send | None = None,
        longest_s: float = 0.0,
    ) -> None:
        self.worn = ""
        self._queue = queue
        self._work = work
        self._wear = wear
        self._grace_s = grace_s
        self._send = send
        self._longest_s = longest_s
        self._held: str | None = None
        self._stopping = Event()
        self._beaten = self._reached = time.monotonic()

    def begin(self) -> None:
        """Start the threads beside the one that works."""
        Thread(target=self._keep, name="keeper", daemon=True).start()
        for _ in range(SENDERS if self._send else 0):
            Thread(target=self._tell, args=[self._send], name="webhooks", daemon=True).start()

    def leave(self) -> None:
        """Finish the job at hand; if that takes too long give it back, and end at once."""
        self._stopping.set()
        last = Timer(self._grace_s, self._drop)
        last.daemon = True
        last.start()

    def ended(self, wait_s: float) -> str:
        """Return why Celery ended though nobody asked it to, *wait_s* later; "" if somebody did."""
        if self.worn or self._stopping.is_set():
            return self.worn
        log.error("Celery ended; the worker starts anew in %.0f s", wait_s)
        return "" if self._stopping.wait(wait_s) else "Celery ended"

    def beat(self) -> None:
        """Say that the loop that brings jobs goes round."""
        self._beaten = time.monotonic()

    def fault(self) -> str:
        """Say why this worker takes no jobs, "" if it does."""
        now = time.monotonic()
        away_s, still_s = now - self._reached, now - self._beaten
        if away_s > self._queue.live_s:
            return f"the broker has not answered for {away_s:.0f} s"
        if still_s > self._longest_s + STILL_S:
            return f"the loop that brings jobs has stood still for {still_s:.0f} s"
        return ""

    def one(self, job_id: str) -> None:
        """Work on a job, unless it has ended or somebody else has it."""
        taken = self._patiently(lambda: self._queue.take(job_id))
        if taken is None:
            return
        job, image, returned = taken
        self._held = job_id
        try:
            status, outcome = self._work(job.order, image)
        except Unavailable as error:
            pause_s = _pause_s(returned)
            log.warning("job %s waits for %.0f s: %s", job_id, pause_s, error)
            self._patiently(lambda: self._queue.give_back(job_id, pause_s))
        except BaseException:  # the process is to end at once
            self._queue.give_back(job_id)
            raise
        else:  # told even by a process that is to end: else all would be done again
            self._patiently(lambda: self._queue.finish(job_id, status, outcome), to_the_end=True)
            self.worn = self._wear.add(processes.private_bytes, time.monotonic())
        finally:
            self._held = None

    def _keep(self) -> None:
        """Renew what is held, and look after what nobody holds."""
        pause_s = min(SWEEP_S, self._queue.live_s / 5)
        while True:
            held = self._held
            with suppress(Unavailable):  # Celery and `_patiently` say so
                if held:
                    self._queue.renew(held)
                for job_id in self._queue.sweep():
                    log.error("job %s is given up: its workers died", job_id)
                self._reach()
            time.sleep(pause_s)

    def _reach(self) -> None:
        """Note that the broker answers; after a while without it, Celery has to find it again."""
        now = time.monotonic()
        if now - self._reached > self._queue.live_s:
            self._beaten = now
        self._reached = now

    def _tell(self, send: Send) -> None:
        while not self._stopping.is_set():
            delivery = self._patiently(self._queue.due)
            if delivery is None:
                self._stopping.wait(SWEEP_S)
                continue
            pause_s = _sent(delivery, send)
            self._patiently(partial(self._queue.settle, delivery, pause_s))

    def _drop(self) -> None:
        held = self._held
        if held:
            log.warning("job %s is given back: it was not finished in time", held)
            with suppress(Unavailable):  # then others find that this process is dead
                self._queue.give_back(held)
        os._exit(0)

    def _patiently(self, action: Callable[[], T], to_the_end: bool = False) -> T | None:
        """Try again what is unavailable, after pauses that grow, until this process is to end."""
        pause_s = LEAST_PAUSE_S
        while True:
            try:
                return action()
            except Unavailable as error:
                log.warning("%s", error)
            if self._stopping.is_set() and not to_the_end:
                return None
            time.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, pause_s * 2)


def serve(
    chosen: settings.Settings,
    live_s: float = LIVE_S,
    look_s: float = LOOK_S,
) -> str:
    """Work on jobs until SIGTERM, or until this process is worn or Celery gives up.

    Returns: why another process is to take its place, else "".
    Raises: BadSetting, ModelUnavailable, before it takes any.
    """
    allocator.configure()
    url, port = chosen.broker_url or "", chosen.worker_metrics_port
    host = chosen.bind.rpartition(":")[0].strip("[]")
    listener = None if port is None else queue_worker_http.listen(host, port)
    queue = Valkey(url, chosen.job_ttl_s, chosen.max_jobs, live_s, look_s)
    warm = runtime.get_or_load(chosen.model)
    predicted = partial(task.outcome, chosen=chosen)
    grace_s = chosen.graceful_timeout_s
    send = partial(
        messages.deliver, secrets=chosen.webhook_secrets, loopback=chosen.webhook_loopback
    )
    told = send if chosen.webhook_secrets else None
    wear = recycling.create_policy(chosen)
    worker = Worker(queue, predicted, wear, grace_s, told, longest_s(chosen))
    app = Celery("macule", broker=url, set_as_current=False)
    app.conf.update(configuration(chosen))

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def predict(job_id: str) -> None:
        worker.one(job_id)
        if worker.worn:
            state.should_stop = 0

    def ready(sender: Any, **_: Any) -> None:
        sender.hub.call_repeatedly(BEAT_S, worker.beat)
        # not before Celery listens to SIGTERM
        log.info("worker %d is ready: %s %s", os.getpid(), warm.card.name, warm.card.version)

    def leaving(**_: Any) -> None:
        worker.leave()

    signals.setup_logging.connect(_silent)  # the command has set logging up
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(leaving)
    # One process and one job at a time: the model is loaded once, and a second core is a second
    # worker's. What workers would say to one another costs each a connection and 4 MB.
    celery = app.Worker(
        pool="solo",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.begin()
    if listener:
        queue_worker_http.start(listener, worker.fault)
    celery.start()
    reason = worker.ended(ANEW_S)  # it ends where the server has no memory left for its commands
    if reason:
        recycling.log_recycle(reason)
    return reason


def longest_s(chosen: settings.Settings) -> float:
    """Return the seconds that a job may take, with the model fetched for it."""
    fetch_s = chosen.model.timeout_s if isinstance(chosen.model, settings.Source) else 0.0
    return fetch_s + 3 * chosen.admission_timeout_s + 2 * chosen.decode_timeout_s


def configuration(chosen: settings.Settings) -> dict[str, Any]:
    """Say how Celery is to run here."""
    return {
        "accept_content": ["json"],
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "global_keyprefix": lua_scripts.CELERY,
            "priority_steps": [0],
            "socket_connect_timeout": TIMEOUT_S,
            "socket_keepalive": True,
            "socket_timeout": 5 * TIMEOUT_S,
            "visibility_timeout": longest_s(chosen) + MARGIN_S,
        },
        "task_acks_late": True,
        "task_default_queue": lua_scripts.QUEUE,
        "task_ignore_result": True,
        "task_reject_on_worker_lost": True,
        "worker_enable_remote_control": False,
        "worker_prefetch_multiplier": 1,
    }


def _sent(delivery: Delivery, send: Send) -> float | None:
    """Try once to deliver a webhook; return the pause until the next try, None if there is none."""
    try:
        outcome = send(delivery.url, delivery.message_id, delivery.body)
    except Exception:  # else the thread ends, and with it all webhooks of this worker
        log.exception("a webhook failed")
        outcome = messages.Outcome("again", "failed on our side")
    attempts = delivery.attempts + 1
    pause_s = messages.pause_s(attempts) if outcome.state == "again" else None
    if pause_s is not None:
        return max(pause_s, outcome.after_s)
    messages.over(outcome, attempts, str(urlsplit(delivery.url).hostname))
    return None


def _silent(**_: Any) -> None:
    """Keep Celery from setting up logging."""


def _pause_s(returned: int) -> float:
    """Say how long a job waits that was given back before so often."""
    return min(MOST_PAUSE_S, 2.0**returned) * random.uniform(0.5, 1.0)  # noqa: S311
