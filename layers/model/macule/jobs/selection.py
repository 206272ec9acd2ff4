"""This process's queue: the broker's where one is set, else the embedded one and its thread."""

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
from macule.jobs import Held, Job, Queue
from macule.memory import budget

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection

    from macule.jobs.embedded.sqlite_queue import Sqlite
    from macule.jobs.webhooks.delivery import Courier


log = logging.getLogger("macule")

MB = 2**20
END_S = 5.0  # more than a photo takes
RESUME_S = 15.0  # between attempts to open a file with jobs in it
DEFAULT_MB = 32, 256  # least and most of MAX_JOBS_MB, where it is not set


class Here(NamedTuple):
    """A queue; `wake` says that a job was put into it, `stop` ends work on it within seconds."""

    queue: Queue
    wake: Callable[[], None]
    stop: Callable[[float], None]


@cache
def current() -> Here:
    """Return this process's queue, opened at the first call, which comes after any fork.

    Raises: QueueUnavailable, BadSetting.
    """
    chosen = settings.current()
    if chosen.broker_url:
        try:
            from macule.jobs.broker.redis_queue import Valkey
        except ModuleNotFoundError as error:
            from macule import extras

            raise BadSetting(extras.install_message("BROKER_URL", "redis")) from error
        distant = Valkey(
            chosen.broker_url,
            chosen.job_ttl_s,
            chosen.max_jobs,
            most_bytes=most_bytes(chosen),
            labels=_labels,
        )
        return Here(distant, lambda: None, lambda _: None)
    from macule.jobs import task
    from macule.jobs.embedded.runner import Runner
    from macule.jobs.embedded.sqlite_queue import Sqlite

    queue = Sqlite(
        folder(chosen),
        chosen.job_ttl_s,
        chosen.max_jobs,
        most_bytes=most_bytes(chosen),
        labels=_labels,
    )
    runner = Runner(queue, partial(task.outcome, chosen=chosen))
    courier = _courier(queue, chosen) if chosen.webhook_secrets else None

    def stop(wait_s: float) -> None:
        runner.stop(wait_s)
        if courier:
            courier.stop(wait_s)

    runner.wake()  # there may be jobs of a process before
    atexit.register(stop, END_S)  # where no server says that it ends: functions-framework
    return Here(queue, runner.wake, stop)


def most_bytes(chosen: settings.Settings) -> int:
    """Return MAX_JOBS_MB; by default part of the memory, as files are memory on some platforms."""
    least, most = DEFAULT_MB
    if chosen.max_jobs_mb or chosen.broker_url:
        return (chosen.max_jobs_mb or most) * MB
    return min(most * MB, max(least * MB, budget.current().limit.bytes // 8))


def _labels() -> int | None:
    warm = runtime.loaded()
    return len(warm.card.labels) if warm else None


def _courier(queue: Sqlite, chosen: settings.Settings) -> Courier:
    """Have webhooks told of each begin and end, from the transaction on in which it happens."""
    import time

    from macule.jobs.webhooks import messages, outbox
    from macule.jobs.webhooks.delivery import Courier

    send = partial(
        messages.deliver, secrets=chosen.webhook_secrets, loopback=chosen.webhook_loopback
    )
    courier = Courier(queue.changing, folder(chosen), queue.token, send)
    with queue.changing() as database:
        outbox.create(database)

    def tell(database: Connection, job: Job) -> None:
        event = jobs.COMPLETED_EVENT if job.ended else jobs.STARTED_EVENT
        outbox.add(database, job.order, event, jobs.document(job), time.time())

    queue.on_change(tell, courier.wake)
    courier.start()
    return courier


def resume() -> None:
    """Take up what the last process left; without that nothing is opened.

    A store that cannot be opened stops nothing but predictions that must be kept; it is tried again
    until it can be, as its disk may be full.
    """
    chosen = settings.current()
    try:
        if not chosen.broker_url and (folder(chosen) / jobs.FILE).exists():
            current().wake()
    except Unavailable as error:
        log.warning("jobs wait: %s", error)
        again = Timer(RESUME_S, resume)
        again.daemon = True
        again.start()


def leave(wait_s: float = 0.0) -> None:
    """Begin nothing more of a queue that was opened, and wait so long for what is at hand."""
    if current.cache_info().currsize:
        current().stop(wait_s)


def waiting() -> Backlog | None:
    """Count what this machine's queue has; None where it is not open.

    A broker is not asked: whoever wants to know the memory here would wait for it.
    """
    if settings.current().broker_url or not current.cache_info().currsize:
        return None
    with suppress(Unavailable):
        return backlog()
    return None


class Backlog(NamedTuple):
    """What has not ended, and how many jobs may wait."""

    jobs: int
    most_jobs: int
    webhooks: int
    held: Held


def backlog() -> Backlog:
    """Count what waits in the broker, or in a file that is there.

    Raises: QueueUnavailable, of a broker after seconds.
    """
    chosen = settings.current()
    if not chosen.broker_url and not (folder(chosen) / jobs.FILE).exists():
        return Backlog(0, chosen.max_jobs, 0, Held(0, most_bytes(chosen)))
    queue = current().queue
    return Backlog(queue.waiting(), chosen.max_jobs, queue.undelivered(), queue.held())


def folder(chosen: settings.Settings) -> Path:
    """Return where jobs wait: DATA_DIR, or this user's own folder for what is temporary.

    Raises: QueueUnavailable where nothing temporary can be written.
    """
    import os
    from pathlib import Path
    from tempfile import gettempdir

    try:
        return Path(chosen.data_dir or os.path.join(gettempdir(), f"macule-{os.geteuid()}"))
    except FileNotFoundError as error:
        raise QueueUnavailable("No folder can be written; see DATA_DIR.") from error
