"""Log, count and trace finished requests and jobs.

No image, file name, result, prediction id or caller-supplied text is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from macule import settings
from macule.errors import BadSetting
from macule.observability import metrics, tracing

log = logging.getLogger("macule")

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
OTHER = "other"  # an unknown method or path: bounds the number of label values
# Polled by platforms every few seconds, so they are logged at debug level.
PROBE_ROUTES = frozenset({"/health", "/ready", "/memory", "/metrics"})
# The only fields a line may have, in this order.
FIELDS = ("id", "trace", "method", "route", "status", "slug", "ms", "bytes", "pixels", "format",
    "cache", "cold", "model", "rung", "band", "key", "profile_ignored",
)  # fmt: skip
Facts = Mapping[str, Any]


def log_request(facts: Facts, stages: Mapping[str, float], headers: Mapping[str, str]) -> None:
    """Log, count and trace an answered request.

    *stages*: milliseconds per stage, in order of execution.
    """
    method = facts["method"] if facts["method"] in METHODS else OTHER
    route, status = facts["route"] or OTHER, facts["status"]
    metrics.add("macule_requests_total", route, method, str(status))
    metrics.observe("macule_request_seconds", facts["ms"] / 1e3, route)
    if facts.get("slug"):
        metrics.add("macule_refusals_total", facts["slug"])
    if facts["bytes"]:
        metrics.add("macule_received_bytes_total", amount=facts["bytes"])
    _count_stages(facts, stages)
    metrics.counters().refresh()
    parent, level, chosen = tracing.parent(headers), _level(route, status), _settings()
    fields = _loggable({**facts, "method": method, "route": route})
    if facts.get("address"):
        fields["address"] = facts.get("address")
    if chosen and chosen.otel_endpoint:
        fields["trace"] = tracing.record(fields, stages, parent)
    elif parent:
        fields["trace"] = parent.trace_id
    _write(level, f"{method} {route} {status}", "request", fields, stages)


def log_job(status: str, facts: Facts, stages: Mapping[str, float]) -> None:
    """Log and count an ended job. Its id gives access to the result, so it is not logged."""
    metrics.add("macule_jobs_total", status, facts.get("slug", ""))
    _count_stages(facts, stages)
    _write(logging.INFO, f"prediction {status}", "job", _loggable(facts), stages)


def _count_stages(facts: Facts, stages: Mapping[str, float]) -> None:
    if "cache" in facts:
        metrics.add("macule_cache_answers_total", facts["cache"])
    for stage, spent_ms in stages.items():
        if stage in metrics.STAGES:
            metrics.observe("macule_stage_seconds", spent_ms / 1e3, stage)


def _write(level: int, message: str, event: str, facts: Facts, stages: Mapping[str, float]) -> None:
    if not log.isEnabledFor(level):
        return
    spent = {f"{stage}_ms": round(spent_ms, 2) for stage, spent_ms in stages.items()}
    # built directly: `log.log` would look up the calling line, 10 of 40 us
    line = logging.LogRecord(log.name, level, "", 0, message, (), None)
    line.facts = {"event": event, **facts, **spent}
    log.handle(line)


def _loggable(facts: Facts) -> dict[str, Any]:
    """Return the fields of *facts* that may be logged and have a value."""
    return {name: facts[name] for name in FIELDS if facts.get(name) not in (None, "", False)}


def _settings() -> settings.Settings | None:
    with suppress(BadSetting):  # already logged at start; nothing is served
        return settings.current()
    return None


def _level(route: str, status: int) -> int:
    if route in PROBE_ROUTES and status in (200, 204, 503):
        return logging.DEBUG
    if status == 500:
        return logging.ERROR
    return logging.WARNING if status > 500 else logging.INFO
