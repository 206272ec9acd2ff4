"""Routing, and errors as problem documents."""

import json
from collections.abc import Iterator
from io import BytesIO

import pytest
from macule import settings
from macule.errors import BadRequest, BodyTooLarge, Busy
from macule.http import application, messages, routing
from macule.http.body import CHUNK_BYTES, MAX_DISCARD_BYTES, Body
from macule.http.messages import Request, Response


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    settings.current.cache_clear()
    yield
    settings.current.cache_clear()


def hello(request: Request) -> Response:
    return messages.json_response({"hello": request.query.get("name", "")})


def busy(request: Request) -> Response:
    raise Busy("full", limit_mb=64)


def broken(request: Request) -> Response:
    raise RuntimeError("secret path /etc/shadow")


TABLE = routing.build_table(
    {"GET /hello/": hello, "GET /busy": busy, "GET /broken": broken, "POST /": hello}
)


def ask(method: str, path: str, **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return application.respond(TABLE, Request(method, path, {}, names, Body(BytesIO(), 0)))


def test_paths_answer_with_and_without_their_slash() -> None:
    """/hello and /hello/ are one route."""
    assert ask("GET", "/hello").status == ask("GET", "/hello/").status == 200


def test_head_is_handled_as_get() -> None:
    """HEAD has the status and length of GET; the adapter leaves the body out."""
    assert ask("HEAD", "/hello").headers["Content-Length"] == "12"


def test_an_unknown_path_and_a_wrong_method_differ() -> None:
    """404 without a route, 405 with Allow if the route has another method."""
    assert ask("GET", "/nowhere").status == 404
    wrong = ask("DELETE", "/hello/")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_options_names_the_methods() -> None:
    """OPTIONS is 204 with Allow."""
    answer = ask("OPTIONS", "/hello")
    assert (answer.status, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")


def test_a_503_has_figures_and_retry_after() -> None:
    """A 503 is a problem document with the error's figures and Retry-After."""
    answer = ask("GET", "/busy", x_request_id="abc-1")
    document = json.loads(answer.body)

    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
    assert document == {
        "type": "urn:macule:problem:busy",
        "title": Busy.title,
        "status": 503,
        "detail": "full",
        "request_id": "abc-1",
        "limit_mb": 64,
    }


def test_an_unexpected_error_reveals_nothing() -> None:
    """An unexpected exception becomes a 500 without its text."""
    answer = ask("GET", "/broken")

    assert answer.status == 500
    assert b"shadow" not in answer.body
    assert b"RuntimeError" not in answer.body


@pytest.mark.parametrize("given", ["a\r\nSet-Cookie: x", "x" * 129, "ü", ""])
def test_a_harmful_request_id_is_replaced(given: str) -> None:
    """Only short, plain ids are returned."""
    assert ask("GET", "/hello", x_request_id=given).headers["X-Request-Id"] not in (given, "")


def test_an_invalid_setting_is_a_500_for_the_operator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns that the service is misconfigured; the log names the variable."""
    monkeypatch.setenv("MAX_IMAGE_BYTES", "ten")

    answer = ask("GET", "/hello")

    assert answer.status == 500
    assert b"ten" not in answer.body
    assert "MAX_IMAGE_BYTES='ten'" in caplog.text


def test_only_allowed_origins_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a listed origin gets CORS headers and an answer to its preflight."""
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example, https://b.example/")
    preflight = {"access_control_request_method": "POST", "origin": "https://b.example"}

    allowed = ask("OPTIONS", "/", **preflight)
    other = ask("GET", "/hello", origin="https://c.example")

    assert allowed.headers["Access-Control-Allow-Origin"] == "https://b.example"
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    assert allowed.headers["Vary"] == other.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in other.headers


def test_a_body_is_never_read_beyond_its_limit() -> None:
    """A known length is rejected before reading, an unknown one as soon as it exceeds the limit."""
    known, unknown = BytesIO(b"x" * 300_000), BytesIO(b"x" * 300_000)

    with pytest.raises(BodyTooLarge):
        list(Body(known, 300_000).chunks(100_000))
    with pytest.raises(BodyTooLarge):
        list(Body(unknown, None).chunks(100_000))

    assert known.tell() == 0
    assert unknown.tell() <= 100_000 + CHUNK_BYTES


def test_a_truncated_body_is_a_bad_request() -> None:
    """The error for an aborted body says how many bytes arrived."""
    with pytest.raises(BadRequest, match="after 5 of 9 bytes"):
        list(Body(BytesIO(b"hello"), 9).chunks(100))


def test_an_unread_body_is_dropped_within_bounds() -> None:
    """An unread body is dropped up to a limit."""
    stream = BytesIO(bytes(MAX_DISCARD_BYTES + 10 * CHUNK_BYTES))

    Body(stream, None).discard()

    assert stream.tell() == MAX_DISCARD_BYTES
