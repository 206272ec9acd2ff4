"""What is told of work that is done: a line of the log, counts, and a trace where one is asked for.

Never an image, a file's name, a result, an id that opens one, or a caller's own words.
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
OTHER = "other"  # a method or a path that nothing here serves: callers invent as many as they like
# Asked by machines, every few seconds: lines of these are for LOG_LEVEL=debug.
PINGED = frozenset({"/health", "/ready", "/memory", "/metrics"})
# What a line may have, in this order; of an error's figures those alone.
FIELDS = ("id", "trace", "method", "route", "status", "slug", "ms", "bytes", "pixels", "format",
    "cache", "cold", "model", "rung", "band", "key", "profile_ignored",
)  # fmt: skip
Facts = Mapping[str, Any]


def answered(facts: Facts, stages: Mapping[str, float], headers: Mapping[str, str]) -> None:
    """Tell of a request that has its answer.

    *stages*: milliseconds of what was done for it, in that order.
    """
    method = facts["method"] if facts["method"] in METHODS else OTHER
    route, status = facts["route"] or OTHER, facts["status"]
    metrics.add("macule_requests_total", route, method, str(status))
    metrics.observe("macule_request_seconds", facts["ms"] / 1e3, route)
    if facts.get("slug"):
        metrics.add("macule_refusals_total", facts["slug"])
    if facts["bytes"]:
        metrics.add("macule_received_bytes_total", amount=facts["bytes"])
    _count(facts, stages)
    metrics.share().look()
    parent, level, chosen = tracing.parent(headers), _level(route, status), _settings()
    told = _known({**facts, "method": method, "route": route})
    if facts.get("address"):
        told["address"] = facts.get("address")
    if chosen and chosen.otel_endpoint:
        told["trace"] = tracing.tell(told, stages, parent)
    elif parent:
        told["trace"] = parent.trace_id
    _write(level, f"{method} {route} {status}", "request", told, stages)


def worked(status: str, facts: Facts, stages: Mapping[str, float]) -> None:
    """Tell of a queued prediction that has ended; its id opens it, and is not told."""
    metrics.add("macule_jobs_total", status, facts.get("slug", ""))
    _count(facts, stages)
    _write(logging.INFO, f"a prediction has {status}", "job", _known(facts), stages)


def _count(facts: Facts, stages: Mapping[str, float]) -> None:
    if "cache" in facts:
        metrics.add("macule_cache_answers_total", facts["cache"])
    for stage, spent_ms in stages.items():
        if stage in metrics.STAGES:
            metrics.observe("macule_stage_seconds", spent_ms / 1e3, stage)


def _write(level: int, message: str, event: str, facts: Facts, stages: Mapping[str, float]) -> None:
    if not log.isEnabledFor(level):
        return
    spent = {f"{stage}_ms": round(spent_ms, 2) for stage, spent_ms in stages.items()}
    # made here, as `log.log` would look for the line of code that calls it: 10 of 40 us
    line = logging.LogRecord(log.name, level, "", 0, message, (), None)
    line.facts = {"event": event, **facts, **spent}
    log.handle(line)


def _known(facts: Facts) -> dict[str, Any]:
    """Leave what may be told."""
    return {name: facts[name] for name in FIELDS if facts.get(name) not in (None, "", False)}


def _settings() -> settings.Settings | None:
    with suppress(BadSetting):  # then nothing is served, and the log says why
        return settings.current()
    return None


def _level(route: str, status: int) -> int:
    if route in PINGED and status in (200, 204, 503):
        return logging.DEBUG
    if status == 500:
        return logging.ERROR
    return logging.WARNING if status > 500 else logging.INFO
