"""Trace context of requests (W3C, Google, AWS) and OpenTelemetry spans.

Background threads make and export the spans after a request is answered, so a slow or missing
collector does not delay requests. The SDK is imported there, only if an endpoint is set.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from macule import settings

if TYPE_CHECKING:
    from queue import Queue

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("macule")

MAX_QUEUED = 1000  # requests waiting for their spans; more are dropped
FLUSH_S = 3.0  # at the end of the process
# `boot` is before the request, `first` within `infer`.
SKIPPED_STAGES = frozenset({"boot", "first"})
# OpenTelemetry semantic conventions for HTTP servers.
ATTRIBUTE_NAMES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "slug": "error.type",
    "bytes": "http.request.body.size",
    "address": "client.address",
}
PATTERNS = {
    "traceparent": r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)",
    "x-cloud-trace-context": r"([0-9a-f]{32})/([0-9]{1,20})(?:;o=([01]))?$",
    "x-amzn-trace-id": r"Root=1-([0-9a-f]{8}-[0-9a-f]{24})"
    r"(?:;Parent=([0-9a-f]{16}))?(?:;Sampled=([01]))?",
}


class Parent(NamedTuple):
    """The caller's span; ids in hexadecimal, `span_id` is "" if unknown."""

    trace_id: str
    span_id: str
    sampled: bool


class FinishedRequest(NamedTuple):
    """An answered request; `end_ns` since 1970."""

    facts: Mapping[str, Any]
    stages: Mapping[str, float]
    trace_id: str
    parent: Parent | None
    end_ns: int


def parent(headers: Mapping[str, str]) -> Parent | None:
    """Parse the trace context of a request; return None if missing or malformed."""
    for name, pattern in PATTERNS.items():
        given = headers.get(name)
        found = re.match(pattern, given) if given else None
        if not found:
            continue
        trace_id, span, flags = found.groups()
        trace_id = trace_id.replace("-", "")
        if name == "x-cloud-trace-context":  # has a decimal span id
            span = f"{int(span):016x}" if int(span) < 2**64 else ""
        if trace_id.strip("0"):
            span = span if span and span.strip("0") else ""
            return Parent(trace_id, span, flags is None or int(flags, 16) % 2 == 1)
    return None


def record(facts: Mapping[str, Any], stages: Mapping[str, float], origin: Parent | None) -> str:
    """Queue an answered request for export and return its trace id. Never blocks."""
    from queue import Full

    trace_id = origin.trace_id if origin else os.urandom(16).hex()
    with suppress(Full):
        _export_queue().put_nowait(FinishedRequest(facts, stages, trace_id, origin, time.time_ns()))
    return trace_id


@cache
def _export_queue() -> Queue[FinishedRequest | None]:
    """Start the export thread of this process at its first request, after any fork."""
    import atexit
    from queue import Full, Queue
    from threading import Thread

    queue: Queue[FinishedRequest | None] = Queue(MAX_QUEUED)
    thread = Thread(target=_export, args=(queue,), name="traces", daemon=True)
    thread.start()

    def finish() -> None:
        if thread.is_alive():
            with suppress(Full):
                queue.put_nowait(None)
            thread.join(FLUSH_S)

    atexit.register(finish)
    return queue


def _export(queue: Queue[FinishedRequest | None]) -> None:
    provider, next_ids = _make_provider()
    while request := queue.get():
        next_ids["trace_id"] = request.trace_id
        _make_spans(provider, request)
    provider.shutdown()


def _make_provider() -> tuple[TracerProvider, dict[str, str]]:
    """Return a batching tracer provider, and a dict that sets the id of its next new trace.

    The log line already has that id. The SDK reads its own OTEL_ variables.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    next_ids = {"trace_id": ""}

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return int(next_ids["trace_id"], 16)

    settings.set_default("OTEL_SERVICE_NAME", "macule")
    provider = TracerProvider(id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider, next_ids


def _make_spans(provider: TracerProvider, request: FinishedRequest) -> None:
    """Make a span for a request and one for each stage, placed one after the other."""
    from opentelemetry import trace

    facts, tracer = request.facts, provider.get_tracer("macule")
    begin_ns = request.end_ns - int(facts["ms"] * 1e6)
    failed = facts["status"] >= 500
    span = tracer.start_span(
        f"{facts['method']} {facts['route']}",
        _context(request.parent),
        trace.SpanKind.SERVER,
        _attributes(facts),
        start_time=begin_ns,
    )
    inside = trace.set_span_in_context(span)
    for stage, spent_ms in request.stages.items():
        if stage in SKIPPED_STAGES:
            continue
        end_ns = min(request.end_ns, begin_ns + int(spent_ms * 1e6))
        tracer.start_span(stage, inside, start_time=begin_ns).end(end_ns)
        begin_ns = end_ns
    if failed:
        span.set_status(trace.StatusCode.ERROR)
    span.end(request.end_ns)


def _context(origin: Parent | None) -> Context | None:
    from opentelemetry import trace

    if not origin or not origin.span_id:
        return None
    flags = trace.TraceFlags(int(origin.sampled))
    remote = trace.SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), True, flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))


def _attributes(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Map the facts to OpenTelemetry attribute names, or to macule.* if there is none."""
    return {
        ATTRIBUTE_NAMES.get(name, f"macule.{name}"): value
        for name, value in facts.items()
        if value not in (None, "") and isinstance(value, str | int | float)
    }
