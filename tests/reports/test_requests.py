"""Requests that failed elsewhere are answered, or rejected with a helpful message."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import Any

import pytest
from macule.http.adapters import aws_lambda
from macule.routes import classify
from macule.security import api_keys
from reports.request_reports import REPORTS, Report
from support.service import FRAMEWORK, GUNICORN, Service, running

HANDLER = aws_lambda.create_handler({"POST /predict/": classify.classify_image})
KEY, PAIR = api_keys.create_key("reports")
SETTINGS = {"ALLOWED_ORIGINS": "https://app.example", "API_KEYS": PAIR, "CACHE_MB": "0"}
SERVERS = {"gunicorn": GUNICORN, "functions-framework": FRAMEWORK.replace("{name}", "predict")}
CHUNK_BYTES = 10_000


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """Run both servers, with keys and an allowed origin."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(command, tmp_path_factory.mktemp("logs"), **SETTINGS))
            for name, command in SERVERS.items()
        }


def sent(service: Service, report: Report) -> tuple[int, str, str]:
    """Send a report's request as it was sent; return status, content and CORS headers."""
    key = {} if report.method == "OPTIONS" else {"X-API-Key": KEY}
    headers = {"Host": "x", "Connection": "close", **key, **report.headers}
    body = report.body
    if report.sent == "chunks":
        headers["Transfer-Encoding"] = "chunked"
        pieces = (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif report.sent != "1.0 without a length":
        headers["Content-Length"] = str(len(body))
    version = "1.0" if report.sent.startswith("1.0") else "1.1"
    lines = [f"{report.method} /predict/ HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        response = HTTPResponse(connection)
        response.begin()
        allowed = response.getheader("Access-Control-Allow-Headers", "")
        return response.status, response.read().decode(), allowed


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("report", REPORTS, ids=[report.source for report in REPORTS])
def test_reported_requests_get_the_correct_answer(
    services: dict[str, Service], report: Report, server: str
) -> None:
    """Status and text are those that the sender of the report needed."""
    status, content, allowed = sent(services[server], report)

    assert status == report.status, content[:300]
    assert report.expected in content
    assert allowed == report.headers.get("Access-Control-Request-Headers", "")


GATEWAY = [report for report in REPORTS if report.sent == "gateway"]


@pytest.mark.parametrize("report", GATEWAY, ids=[report.source for report in GATEWAY])
def test_text_from_a_gateway_is_reported(report: Report) -> None:
    """Lambda gets a body as text from an API Gateway without binary media types."""
    event: dict[str, Any] = {
        "httpMethod": "POST",
        "path": "/predict/",
        "headers": report.headers,
        "body": report.body.decode(),
        "isBase64Encoded": False,
        "requestContext": {},
    }

    answer = HANDLER(event, None)

    assert (answer["statusCode"], report.expected in answer["body"]) == (report.status, True)


def test_every_report_names_its_thread() -> None:
    """There are at least twenty, from different threads."""
    sources = {report.source for report in REPORTS}

    assert len(sources) == len(REPORTS) >= 20
    assert all(source.count("/") == source.count("#") == 1 for source in sources)
