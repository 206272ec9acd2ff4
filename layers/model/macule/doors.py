"""Doors: a WSGI environ, a Flask request or a Lambda event in, the same Request behind them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from socket import SHUT_RD, socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from macule import budget, http, log, metrics
from macule.body import Body
from macule.http import Handler, Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Request as FlaskRequest
    from werkzeug.wrappers import Response as FlaskResponse

# Paths that a scheduler is pointed at; a ping to another path is answered as what it asks for.
PINGED = ("", "/", "/predict", "/predict/")
SCHEDULE = "schedule"  # whose a request is that did not come over HTTP
TEXT = ("text/", "application/json", "application/problem+json")


def wsgi(
    routes: Mapping[str, Handler], unlocked: Iterable[str] = (), uncounted: Iterable[str] = ()
) -> WSGIApplication:
    """Open the WSGI door: gunicorn's, and through Flask that of functions-framework.

    Args:
      unlocked: routes that ask for no key, where there are keys.
      uncounted: routes that POST and are counted against no quota.
    """
    table, boot_ms = _open(routes)
    free = http.exempt(unlocked, uncounted)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = _ping(_from_environ(environ, boot_ms))
        response = http.answer(table, request, free)
        if response.status in http.REFUSED:
            from macule import refusal

            refusal.line().wait()
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, list(response.headers.items()))
        body = [] if request.method == "HEAD" else [response.body]
        if not request.body.left:
            return body
        from macule.refusal import Answer

        return Answer(body, request.body)

    return app


def from_flask(request: FlaskRequest, app: WSGIApplication) -> FlaskResponse:
    """Pass a Flask request through the WSGI door: functions-framework, Cloud Run functions."""
    from werkzeug.wrappers import Response

    return Response.from_app(app, request.environ)


def lambda_handler(
    routes: Mapping[str, Handler], unlocked: Iterable[str] = (), uncounted: Iterable[str] = ()
) -> Callable[[Mapping[str, Any], object], dict[str, Any]]:
    """Open the Lambda door: function URLs, HTTP and REST APIs, load balancers, warm-up events."""
    table, boot_ms = _open(routes)
    free = http.exempt(unlocked, uncounted)

    def handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
        request = _ping(_from_event(event, boot_ms))
        answer = _to_event(http.answer(table, request, free), request.method)
        if "headers" not in event and "multiValueHeaders" in event:  # a balancer set to lists
            answer["multiValueHeaders"] = {k: [v] for k, v in answer.pop("headers").items()}
        return answer

    return handler


def _open(routes: Mapping[str, Handler]) -> tuple[http.Table, float]:
    """Do what comes once a process, before any request; return the table, and the start's ms."""
    boot_ms = budget.age_ms()
    budget.tame()
    metrics.share()
    log.begin()
    return http.table(routes), boot_ms


def _ping(request: Request) -> Request:
    """Recognise a warm-up by its headers and let it ask for /warmup/."""
    pings = (
        request.headers.get("x-warmup") == "1"
        or request.headers.get("x-cloudscheduler", "").lower() == "true"
    )
    if pings and request.body.length in (None, 0) and request.path in PINGED:
        return request._replace(method="GET", path="/warmup/")
    return request


def _from_environ(environ: WSGIEnvironment, boot_ms: float) -> Request:
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    headers["content-type"] = environ.get("CONTENT_TYPE", "")
    given = environ.get("CONTENT_LENGTH") or ""
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = int(given) if given.isascii() and given.isdigit() else (None if chunked else 0)
    return Request(
        environ["REQUEST_METHOD"],
        environ.get("PATH_INFO") or "/",
        dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)),
        headers,
        Body(environ["wsgi.input"], length, _hang_up(environ.get("gunicorn.socket"))),
        boot_ms,
        address=environ.get("REMOTE_ADDR", ""),
    )


def _hang_up(connection: socket | None) -> Callable[[], None] | None:
    """Make what ends a read that waits for a sender; an answer can still be sent."""
    if connection is None:
        return None

    def shut() -> None:
        with suppress(OSError):  # the sender is gone
            connection.shutdown(SHUT_RD)

    return shut


def _from_event(event: Mapping[str, Any], boot_ms: float) -> Request:
    """Read the events of a function URL and HTTP API (2.0), of a REST API or a balancer (1.0).

    An event without HTTP in it is a schedule's: it warms the function, and needs no key, as only
    whom the account lets invoke the function itself can send it.
    """
    context = event.get("requestContext") or {}
    about = context.get("http") or {}
    method = about.get("method") or event.get("httpMethod")
    if not method:
        return Request("GET", "/warmup/", {}, {}, Body(BytesIO(), 0), boot_ms, caller=SCHEDULE)
    query = event.get("rawQueryString")
    if query is None:
        lists = event.get("multiValueQueryStringParameters")
        pairs = lists or event.get("queryStringParameters") or {}
        # a balancer hands on what was sent, an API what it means
        query = urlencode(pairs, doseq=True, quote_via=_as_sent if "elb" in context else quote)
    text = event.get("body") or ""
    try:
        body = b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()
    except Base64Error:
        body = b""
    lists = event.get("multiValueHeaders") or {}
    headers = event.get("headers") or {name: values[-1] for name, values in lists.items()}
    headers = {name.lower(): value for name, value in headers.items()}
    path = event.get("rawPath") or event.get("path") or "/"
    # a balancer says whom it heard by what it adds to the header
    heard = (
        headers.get("x-forwarded-for", "").rpartition(",")[2].strip() if "elb" in context else ""
    )
    who = about.get("sourceIp") or (context.get("identity") or {}).get("sourceIp") or heard
    return Request(
        method,
        path.removeprefix(f"/{context.get('stage')}") or "/",
        dict(parse_qsl(query, keep_blank_values=True)),
        headers,
        Body(BytesIO(body), len(body)),
        boot_ms,
        address=who,
    )


def _as_sent(text: Any, *how: object) -> str:
    return str(text)


def _to_event(response: Response, method: str) -> dict[str, Any]:
    packed = "Content-Encoding" in response.headers
    text = not packed and response.headers.get("Content-Type", "text/").startswith(TEXT)
    body = b"" if method == "HEAD" else response.body
    return {
        "statusCode": response.status,
        "headers": response.headers,
        "isBase64Encoded": not text,
        "body": body.decode() if text else b64encode(body).decode("ascii"),
    }
