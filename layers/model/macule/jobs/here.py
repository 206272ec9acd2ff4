"""This process's queue: the broker's where one is set, else the embedded one and its thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from macule import jobs, settings
from macule.jobs import Queue


class Here(NamedTuple):
    """A queue; `wake` says that a job was put into it, `stop` ends work on it within seconds."""

    queue: Queue
    wake: Callable[[], None]
    stop: Callable[[float], None]


@cache
def current() -> Here:
    """Return this process's queue, opened at the first call, which comes after any fork.

    Raises: QueueUnavailable.
    """
    from macule.jobs import work
    from macule.jobs.runner import Runner
    from macule.jobs.sqlite import Sqlite

    chosen = settings.current()
    queue = Sqlite(folder(chosen), chosen.job_ttl_s, chosen.max_jobs)
    runner = Runner(queue, partial(work.outcome, chosen=chosen))
    return Here(queue, runner.wake, runner.stop)


def resume() -> None:
    """Take up what the last process left; without that nothing is opened."""
    chosen = settings.current()
    if not chosen.broker_url and (folder(chosen) / jobs.FILE).exists():
        current().wake()


def stop(wait_s: float) -> None:
    """End the work on a queue that was opened."""
    if current.cache_info().currsize:
        current().stop(wait_s)


def folder(chosen: settings.Settings) -> Path:
    """Return where jobs wait: DATA_DIR, or this user's own folder for what is temporary."""
    import os
    from tempfile import gettempdir

    return Path(chosen.data_dir or os.path.join(gettempdir(), f"macule-{os.geteuid()}"))
