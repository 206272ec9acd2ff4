"""GET /metrics: counters and current gauges of the service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache

from macule import __version__
from macule.errors import Unavailable
from macule.http.messages import Request, Response
from macule.inference import runtime
from macule.jobs import selection
from macule.memory import admission, budget, processes
from macule.observability import metrics
from macule.observability.metrics import Values

QUEUE_ROUTE = "/predictions"
NOTHING: Values = {}
# Left out where the service does not know them.
QUEUE_METRICS = (
    "macule_jobs_waiting",
    "macule_jobs_limit",
    "macule_jobs_held_bytes",
    "macule_jobs_limit_bytes",
    "macule_webhooks_waiting",
    "macule_worker_alive",
)


def show(request: Request) -> Response:
    """GET /metrics: Prometheus text format, for all processes of this service."""
    # the health function opens no queue
    return render(_queue() if QUEUE_ROUTE in request.routes else {})


def render(own: Mapping[str, Values]) -> Response:
    """Return all metrics; *own*: the known QUEUE_METRICS."""
    measured = {**dict.fromkeys(QUEUE_METRICS, NOTHING), **_memory(), **own, **_service()}
    body = metrics.text(measured).encode()
    return Response(200, body, {"Content-Type": metrics.CONTENT_TYPE})


def _memory() -> dict[str, Values]:
    limit, held, pids = budget.current().limit, admission.current(), processes.service_pids()
    used = processes.usage(pids)
    band = budget.band_of(used.pss / limit.bytes)
    return {
        "macule_memory_pss_bytes": {(): used.pss},
        "macule_memory_rss_bytes": {(): used.rss},
        "macule_memory_unreclaimable_bytes": {(): budget.used_bytes(limit)},
        "macule_memory_limit_bytes": {(): limit.bytes},
        "macule_memory_headroom_bytes": {(): max(0, held.free())},
        "macule_memory_band": {(name,): name == band for name in ("idle", *budget.BANDS)},
        "macule_processes": {(): len(pids)},
        "macule_slots": {(): held.level().slots or held.slots},
    }


def _queue() -> dict[str, Values]:
    """Return the metrics of the queue; none if it is unavailable."""
    try:
        waiting = selection.backlog()
    except Unavailable:
        return {}
    usage = waiting.usage
    return {
        "macule_jobs_waiting": {(): waiting.jobs},
        "macule_jobs_limit": {(): waiting.max_jobs},
        "macule_webhooks_waiting": {(): waiting.webhooks},
        "macule_jobs_held_bytes": {(): usage.bytes},
        "macule_jobs_limit_bytes": {(): usage.max_bytes},
    }


def _service() -> dict[str, Values]:
    warm = runtime.loaded()
    return {
        "macule_build_info": {(__version__,): 1},
        "macule_model_info": {tuple(warm.identity().values()): 1} if warm else {},
        "process_start_time_seconds": {(): _started_s()},
    }


@cache
def _started_s() -> float:
    return round(time.time() - processes.age_ms() / 1e3, 2)
