"""Content and format of log lines, and the trace of a request."""

import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macule.observability import access_log, log_format, tracing
from macule.observability.log_format import MAX_LINE_BYTES, StderrHandler, as_json, as_text

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ANYTHING = st.text(st.characters(), max_size=600) | st.binary(max_size=600).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
FACTS = {"id": "1", "method": "POST", "route": "/predict", "status": 200, "ms": 1.0, "bytes": 5}


@pytest.fixture
def lines() -> Iterator[logging.Logger]:
    """Return a logger whose lines go where those of a service go."""
    logger = logging.getLogger("macule")
    handler = StderrHandler(as_json)
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield logger
    logger.removeHandler(handler)
    logger.setLevel("NOTSET")


def logged(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def made(message: str, fact: str = "", failed: bool = False) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise ValueError(message)
        except ValueError:
            error = sys.exc_info()
    line = logging.LogRecord("macule", logging.INFO, "", 0, "%s", (message,), error)
    line.facts = {"event": fact}
    return line


@given(ANYTHING, ANYTHING, st.booleans())
def test_json_lines_stay_one_line(message: str, fact: str, failed: bool) -> None:
    """Newlines, control characters, invalid UTF-8 and long text give one complete object."""
    text = as_json(made(message, fact, failed))

    assert text.isascii()
    assert text.isprintable()
    assert len(text) < MAX_LINE_BYTES
    assert json.loads(text)["severity"] == "INFO"


@given(ANYTHING, ANYTHING, st.booleans())
def test_text_lines_cannot_be_forged(message: str, fact: str, failed: bool) -> None:
    """Control characters are removed, and further lines are indented."""
    first, *rest = as_text(made(message, fact, failed)).split("\n")

    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_a_line_has_only_known_facts(
    lines: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name or a result that a route passes by mistake is not written."""
    extra = {"filename": "me.jpg", "label": "melanoma", "prediction": "id", "slug": "busy"}
    access_log.log_request({**FACTS, **extra}, {"decode": 1.234}, {"user-agent": "curl"})
    (line,) = logged(capfd)

    assert line.keys() == {
        "time", "severity", "message", "event", "id", "method", "route", "status", "slug", "ms",
        "bytes", "decode_ms",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("route", "status", "severity"),
    [
        ("/predict", 200, "INFO"),
        ("/predict", 415, "INFO"),
        ("/predict", 503, "WARNING"),
        ("/predict", 500, "ERROR"),
        ("/health", 500, "ERROR"),
        ("/health", 200, None),
        ("/ready", 503, None),
        ("/metrics", 200, None),
    ],
)
def test_pings_are_debug_lines(
    lines: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    route: str,
    status: int,
    severity: str | None,
) -> None:
    """Pings need LOG_LEVEL=debug; a refusal for lack of memory warns, a fault is an error."""
    access_log.log_request({**FACTS, "route": route, "status": status}, {}, {})

    assert [line["severity"] for line in logged(capfd)] == [severity] * bool(severity)


def test_unknown_words_become_other(
    lines: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    """An unknown method or path becomes neither a label nor a field."""
    access_log.log_request({**FACTS, "method": "BREW\n{", "route": ""}, {}, {})
    (line,) = logged(capfd)

    assert (line["method"], line["route"]) == ("other", "other")


def test_gunicorn_logs_no_address(capfd: pytest.CaptureFixture[str]) -> None:
    """gunicorn's line about an invalid request has no address or content by default."""
    message = "Invalid request from ip=192.0.2.1: Invalid HTTP header: 'my name'"
    for whole in (False, True):
        handler = StderrHandler(as_json, whole)
        handler.handle(
            logging.LogRecord("gunicorn.error", logging.WARNING, "", 0, message, (), None)
        )

    assert [line["message"] for line in logged(capfd)] == ["Invalid request", message]


def test_a_default_handler_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' own stream handlers are replaced; an operator's file handler is not."""
    kept, stream = logging.FileHandler(os.devnull), logging.StreamHandler()
    logger = logging.getLogger("gunicorn.error")
    monkeypatch.setattr(logger, "handlers", [kept, stream])
    log_format.configure()

    assert logger.handlers[0] is kept
    assert isinstance(logger.handlers[1], StderrHandler)
    assert len(logger.handlers) == 2
    kept.close()
    logging.getLogger("macule").setLevel("NOTSET")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": f"00-{TRACE}-{SPAN}-01"}, (TRACE, SPAN, True)),
        ({"traceparent": f"00-{TRACE}-{SPAN}-00"}, (TRACE, SPAN, False)),
        ({"traceparent": f"cc-{TRACE}-{SPAN}-01-more"}, (TRACE, SPAN, True)),
        ({"x-cloud-trace-context": f"{TRACE}/255;o=1"}, (TRACE, "00000000000000ff", True)),
        ({"x-amzn-trace-id": f"Root=1-{TRACE[:8]}-{TRACE[8:]}"}, (TRACE, "", True)),
        (
            {"x-amzn-trace-id": f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=0"},
            (TRACE, SPAN, False),
        ),
        ({"traceparent": f"ff-{TRACE}-{SPAN}-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-{SPAN}-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"}, None),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01x"}, None),
        ({"traceparent": "\n"}, None),
        ({}, None),
    ],
)
def test_trace_headers_are_read(
    headers: dict[str, str], expected: tuple[str, str, bool] | None
) -> None:
    """Headers of W3C, Google and AWS name a trace; invalid ones do not."""
    assert tracing.parent(headers) == expected


@given(ANYTHING)
def test_ids_are_ids_for_any_trace_header(text: str) -> None:
    """No text of a client passes any of the three."""
    for name in tracing.PATTERNS:
        found = tracing.parent({name: text})
        assert not found or set(found.trace_id + found.span_id) <= set("0123456789abcdef")
