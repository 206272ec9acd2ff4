"""Where a request belongs in a trace (W3C, Google, AWS), and spans of it for OpenTelemetry.

Spans are made and sent by threads of their own, from what is known once a request is answered: a
collector that is slow, or gone, holds up nobody. The SDK is loaded there, where an endpoint is set.
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

MOST_WAITING = 1000  # requests whose spans are to be made; more are forgotten
FLUSH_S = 3.0  # at the end of the process
OUTSIDE = frozenset({"boot", "first"})  # before the request; within `infer`
# Semantic conventions of HTTP servers.
NAMES = {
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
    """What a request came from; ids in hexadecimal, `span_id` "" where none is known."""

    trace_id: str
    span_id: str
    sampled: bool


class Told(NamedTuple):
    """A request to make spans of; `end_ns` since 1970."""

    facts: Mapping[str, Any]
    stages: Mapping[str, float]
    trace_id: str
    parent: Parent | None
    end_ns: int


def parent(headers: Mapping[str, str]) -> Parent | None:
    """Read the trace that a request belongs to; what is not as it should be is none."""
    for name, pattern in PATTERNS.items():
        given = headers.get(name)
        found = re.match(pattern, given) if given else None
        if not found:
            continue
        trace_id, span, flags = found.groups()
        trace_id = trace_id.replace("-", "")
        if name == "x-cloud-trace-context":  # its span is a decimal number
            span = f"{int(span):016x}" if int(span) < 2**64 else ""
        if trace_id.strip("0"):
            span = span if span and span.strip("0") else ""
            return Parent(trace_id, span, flags is None or int(flags, 16) % 2 == 1)
    return None


def tell(facts: Mapping[str, Any], stages: Mapping[str, float], origin: Parent | None) -> str:
    """Have spans made of a request that was just answered; return its trace's id. Never waits."""
    from queue import Full

    trace_id = origin.trace_id if origin else os.urandom(16).hex()
    with suppress(Full):
        _sender().put_nowait(Told(facts, stages, trace_id, origin, time.time_ns()))
    return trace_id


@cache
def _sender() -> Queue[Told | None]:
    """Start this process's thread, at its first request: after any fork."""
    import atexit
    from queue import Full, Queue
    from threading import Thread

    waiting: Queue[Told | None] = Queue(MOST_WAITING)
    thread = Thread(target=_send, args=(waiting,), name="traces", daemon=True)
    thread.start()

    def finish() -> None:
        if thread.is_alive():
            with suppress(Full):
                waiting.put_nowait(None)
            thread.join(FLUSH_S)

    atexit.register(finish)
    return waiting


def _send(waiting: Queue[Told | None]) -> None:
    provider, following = _provider()
    while told := waiting.get():
        following["trace_id"] = told.trace_id
        _spans(provider, told)
    provider.shutdown()


def _provider() -> tuple[TracerProvider, dict[str, str]]:
    """Make what sends spans in batches; it takes its own OTEL_ variables from the environment.

    Returns: it, and where to put the id of the next trace that begins here: the log has it already.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    following = {"trace_id": ""}

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return int(following["trace_id"], 16)

    settings.set_default("OTEL_SERVICE_NAME", "macule")
    provider = TracerProvider(id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider, following


def _spans(provider: TracerProvider, told: Told) -> None:
    """Make a span of a request, and one of each stage: as long as measured, one after the other."""
    from opentelemetry import trace

    facts, tracer = told.facts, provider.get_tracer("macule")
    begin_ns = told.end_ns - int(facts["ms"] * 1e6)
    failed = facts["status"] >= 500
    span = tracer.start_span(
        f"{facts['method']} {facts['route']}",
        _context(told.parent),
        trace.SpanKind.SERVER,
        _attributes(facts),
        start_time=begin_ns,
    )
    inside = trace.set_span_in_context(span)
    for stage, spent_ms in told.stages.items():
        if stage in OUTSIDE:
            continue
        end_ns = min(told.end_ns, begin_ns + int(spent_ms * 1e6))
        tracer.start_span(stage, inside, start_time=begin_ns).end(end_ns)
        begin_ns = end_ns
    if failed:
        span.set_status(trace.StatusCode.ERROR)
    span.end(told.end_ns)


def _context(origin: Parent | None) -> Context | None:
    from opentelemetry import trace

    if not origin or not origin.span_id:
        return None
    flags = trace.TraceFlags(int(origin.sampled))
    above = trace.SpanContext(int(origin.trace_id, 16), int(origin.span_id, 16), True, flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(above))


def _attributes(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Name the facts as OpenTelemetry's conventions do, where they have a name for one."""
    return {
        NAMES.get(name, f"macule.{name}"): value
        for name, value in facts.items()
        if value not in (None, "") and isinstance(value, str | int | float)
    }
