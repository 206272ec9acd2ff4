"""AWS Lambda SnapStart: hooks before the snapshot and after each restore.

The snapshot is the memory and the disk of a process that has loaded the model and run it. Each
environment starts as a copy of it. Ids come from `os.urandom`, which differs between copies.
Connections, threads and temporary files are not copied: the first request that needs them opens
them.
"""

from __future__ import annotations

from collections.abc import Callable

from macule.http.messages import Response
from macule.memory import budget, processes


class SnapshotFailed(Exception):
    """The warm-up failed: Lambda publishes no version, and the previous one keeps serving."""


def register(warm_up: Callable[[], Response]) -> None:
    """Register *warm_up* before the snapshot and `reset_after_restore` in each copy."""
    # in AWS's images of Python 3.12 and later, with the clients that run the hooks
    from snapshot_restore_py import (  # type: ignore[import-untyped]
        register_after_restore,
        register_before_snapshot,
    )

    register_before_snapshot(_run_warm_up, warm_up)
    register_after_restore(reset_after_restore)


def reset_after_restore() -> None:
    """Reset what copies must not share: the state of `random`, the age, the measured memory."""
    import random  # OpenTelemetry takes the ids of spans from it

    random.seed()
    processes.mark_restored()
    budget.current.cache_clear()


def _run_warm_up(warm_up: Callable[[], Response]) -> None:
    response = warm_up()
    if response.status != 200:
        raise SnapshotFailed(f"GET /warmup/ returned {response.status}: {response.body.decode()}")
