"""AWS Lambda SnapStart: what runs before the snapshot, and what each copy makes anew.

The snapshot is the memory and the disk of a process that has loaded the model and run it. Each
environment starts as a copy. Ids come from `os.urandom`, which differs between copies; connections,
threads and temporary files are opened by the first request that needs them, so none is copied.
"""

from __future__ import annotations

from collections.abc import Callable

from macule.http.messages import Response
from macule.memory import budget, processes


class SnapshotFailed(Exception):
    """The service cannot warm up: Lambda publishes no version, and the one before serves on."""


def register(warm_up: Callable[[], Response]) -> None:
    """Have Lambda's runtime client call *warm_up* before the snapshot and `renew` in each copy."""
    # AWS's image of each Python from 3.12 on has it, as the clients that run the hooks
    from snapshot_restore_py import (  # type: ignore[import-untyped]
        register_after_restore,
        register_before_snapshot,
    )

    register_before_snapshot(_prepare, warm_up)
    register_after_restore(renew)


def renew() -> None:
    """Make anew what copies must not share: the state of `random`, the age, what was measured."""
    import random  # gives OpenTelemetry the ids of spans

    random.seed()
    processes.mark_restored()
    budget.current.cache_clear()


def _prepare(warm_up: Callable[[], Response]) -> None:
    response = warm_up()
    if response.status != 200:
        raise SnapshotFailed(
            f"GET /warmup/ is answered with {response.status}: {response.body.decode()}"
        )
