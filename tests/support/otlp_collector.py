"""A real OTLP/HTTP receiver on loopback, which stores the spans."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.loopback import Handler, Loopback, serving

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


class Collector(Loopback):
    """Stores each span; *stalls* answers nothing until `over`."""

    def __init__(self, stalls: bool) -> None:
        super().__init__(_Handler)
        self.stalls = stalls
        self.spans: list[Any] = []
        self.names: set[str] = set()


class _Handler(Handler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.stalls:
            self.server.over.wait()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.names |= {
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()


@contextmanager
def collector(stalls: bool = False) -> Iterator[Collector]:
    with serving(Collector(stalls)) as server:
        yield server


def endpoint(server: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url, **SOON}
