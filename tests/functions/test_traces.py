"""Traces of the running service, as a real OTLP/HTTP receiver gets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.images import photo
from support.otlp_collector import collector, endpoint
from support.service import GUNICORN_DEV, Service, running, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def logged(service: Service) -> list[dict[str, Any]]:
    text = service.log.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]


def test_a_request_is_a_span_with_its_stages(tmp_path: Path) -> None:
    """Spans continue the client's trace, have the log's facts, and contain the stages."""
    given = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    with collector() as there, running(GUNICORN_DEV, tmp_path, **endpoint(there)) as service:
        service.predict(photo(), "?explain=cam", **given)
        service.predict(b"<html>")
        service.predict(photo(), traceparent=f"00-{TRACE}-{SPAN}-00")
        until(lambda: [span.name for span in there.spans].count("POST /predict") >= 2)
        trace_ids = [line["trace"] for line in logged(service) if line.get("event") == "request"]
    roots = {span.name: span for span in there.spans if span.kind == 2}
    posts = [span for span in there.spans if span.name == "POST /predict"]
    mine = next(span for span in posts if span.trace_id.hex() == TRACE)
    other = next(span for span in posts if span.trace_id.hex() != TRACE)
    stages = [span for span in there.spans if span.parent_span_id == mine.span_id]
    facts = {each.key: each.value for each in mine.attributes}

    assert there.names == {"macule"}
    assert "GET /health" in roots
    assert mine.parent_span_id.hex() == SPAN
    assert len(posts) == 2  # the client did not sample the third
    assert [span.name for span in stages] == [
        "wait", "read", "fetch", "import", "load", "decode", "infer", "explain",
    ]  # fmt: skip
    for span in stages:
        assert mine.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= mine.end_time_unix_nano
    assert facts["http.response.status_code"].int_value == 200
    assert facts["http.route"].string_value == "/predict"
    assert facts["macule.pixels"].int_value == 640 * 480
    assert {each.key: each.value for each in other.attributes}["error.type"].string_value == (
        "unsupported-image"
    )
    assert trace_ids[0] == TRACE
    assert trace_ids[1] == other.trace_id.hex()


def test_pending_spans_are_sent_at_the_end(tmp_path: Path) -> None:
    """Spans that wait for the next batch are sent after SIGTERM."""
    with collector() as there:
        late = {**endpoint(there), "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        with running(GUNICORN_DEV, tmp_path, **late) as service:
            service.predict(photo())
        names = [span.name for span in there.spans]

    assert "POST /predict" in names


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "stalled"])
def test_an_unresponsive_collector_delays_nothing(tmp_path: Path, gone: bool) -> None:
    """With its collector down or hanging a service answers and ends normally."""
    with collector(stalls=True) as there:
        where = endpoint(there)
        if gone:
            where["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        with running(GUNICORN_DEV, tmp_path, **where) as service:
            statuses = {service.predict(photo()).status for _ in range(300)}

        assert statuses == {200}
        assert service.process.returncode == 0
