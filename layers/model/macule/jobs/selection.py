"""The queue of this process: on the broker if BROKER_URL is set, else embedded."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from threading import Timer
from typing import TYPE_CHECKING, NamedTuple

from macule import jobs, settings
from macule.errors import BadSetting, QueueUnavailable, Unavailable
from macule.inference import runtime
from macule.jobs import Job, Queue, Usage
from macule.memory import budget

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection

    from macule.jobs.embedded.sqlite_queue import SqliteQueue
    from macule.jobs.webhooks.delivery import DeliveryThread


log = logging.getLogger("macule")

MB = 2**20
STOP_TIMEOUT_S = 5.0  # longer than one prediction takes
RETRY_S = 15.0  # between attempts to open an existing queue file
DEFAULT_MB = 32, 256  # range of MAX_JOBS_MB if it is not set


class ActiveQueue(NamedTuple):
    """A queue; `wake` reports a new job, `stop` ends its threads within the given seconds."""

    queue: Queue
    wake: Callable[[], None]
    stop: Callable[[float], None]


@cache
def active_queue() -> ActiveQueue:
    """Return the queue of this process, opened at the first call, after any fork.

    Raises: QueueUnavailable, BadSetting.
    """
    chosen = settings.current()
    times, limit = (chosen.job_ttl_s, chosen.max_jobs), max_bytes(chosen)
    if chosen.broker_url:
        try:
            from macule.jobs.broker.redis_queue import RedisQueue
        except ModuleNotFoundError as error:
            from macule import extras

            raise BadSetting(extras.install_message("BROKER_URL", "redis")) from error
        broker_queue = RedisQueue(chosen.broker_url, *times, max_bytes=limit, labels=_label_count)
        return ActiveQueue(broker_queue, lambda: None, lambda _: None)
    from macule.jobs import task
    from macule.jobs.embedded.runner import Runner
    from macule.jobs.embedded.sqlite_queue import SqliteQueue

    folder = data_folder(chosen)
    queue = SqliteQueue(folder, *times, max_bytes=limit, labels=_label_count)
    runner = Runner(queue, partial(task.run, chosen=chosen))
    delivery = _start_delivery(queue, chosen) if chosen.webhook_secrets else None

    def stop_threads(wait_s: float) -> None:
        runner.stop(wait_s)
        if delivery:
            delivery.stop(wait_s)

    runner.wake()  # an earlier process may have left jobs
    atexit.register(stop_threads, STOP_TIMEOUT_S)  # functions-framework has no shutdown hook
    return ActiveQueue(queue, runner.wake, stop_threads)


def max_bytes(chosen: settings.Settings) -> int:
    """Return MAX_JOBS_MB in bytes; by default 1/8 of the memory limit within DEFAULT_MB.

    On some platforms files count as memory.
    """
    least, most = DEFAULT_MB
    if chosen.max_jobs_mb or chosen.broker_url:
        return (chosen.max_jobs_mb or most) * MB
    return min(most * MB, max(least * MB, budget.current().limit.bytes // 8))


def _label_count() -> int | None:
    warm = runtime.loaded()
    return len(warm.card.labels) if warm else None


def _start_delivery(queue: SqliteQueue, chosen: settings.Settings) -> DeliveryThread:
    """Start the delivery thread; job starts and ends add webhooks in the same transaction."""
    import time

    from macule.jobs.webhooks import outbox
    from macule.jobs.webhooks.delivery import DeliveryThread
    from macule.jobs.webhooks.messages import deliver

    send = partial(deliver, secrets=chosen.webhook_secrets, loopback=chosen.webhook_loopback)
    delivery = DeliveryThread(queue.transaction, data_folder(chosen), queue.token, send)
    with queue.transaction() as database:
        outbox.create_table(database)

    def add_webhook(database: Connection, job: Job) -> None:
        event = jobs.COMPLETED_EVENT if job.ended else jobs.STARTED_EVENT
        outbox.add(database, job.options, event, jobs.document(job), time.time())

    queue.on_change(add_webhook, delivery.wake)
    delivery.start()
    return delivery


def resume_jobs() -> None:
    """Continue the jobs of an earlier process; open nothing if there are none.

    Retries until the file can be opened, because the disk may be full. Other routes still work.
    """
    chosen = settings.current()
    try:
        if not chosen.broker_url and (data_folder(chosen) / jobs.DATABASE_FILE).exists():
            active_queue().wake()
    except Unavailable as error:
        log.warning("jobs wait: %s", error)
        retry = Timer(RETRY_S, resume_jobs)
        retry.daemon = True
        retry.start()


def stop(wait_s: float = 0.0) -> None:
    """Start no more jobs, and wait up to *wait_s* for running ones. No-op if no queue is open."""
    if active_queue.cache_info().currsize:
        active_queue().stop(wait_s)


def local_backlog() -> Backlog | None:
    """Return the backlog of the embedded queue; None if it is not open.

    Does not ask a broker, because the memory report must not wait for one.
    """
    if settings.current().broker_url or not active_queue.cache_info().currsize:
        return None
    with suppress(Unavailable):
        return backlog()
    return None


class Backlog(NamedTuple):
    """Jobs and webhooks that have not ended, with the limits."""

    jobs: int
    max_jobs: int
    webhooks: int
    usage: Usage


def backlog() -> Backlog:
    """Return the backlog of the broker, or of an existing queue file.

    Raises: QueueUnavailable; for a broker after seconds.
    """
    chosen = settings.current()
    if not chosen.broker_url and not (data_folder(chosen) / jobs.DATABASE_FILE).exists():
        return Backlog(0, chosen.max_jobs, 0, Usage(0, max_bytes(chosen)))
    queue = active_queue().queue
    return Backlog(queue.waiting(), chosen.max_jobs, queue.undelivered(), queue.usage())


def data_folder(chosen: settings.Settings) -> Path:
    """Return the folder of the embedded queue: DATA_DIR, or a temporary folder of this user.

    Raises: QueueUnavailable if there is no writable temporary folder.
    """
    import os
    from pathlib import Path
    from tempfile import gettempdir

    try:
        return Path(chosen.data_dir or os.path.join(gettempdir(), f"macule-{os.geteuid()}"))
    except FileNotFoundError as error:
        raise QueueUnavailable("No writable folder for jobs; set DATA_DIR.") from error
