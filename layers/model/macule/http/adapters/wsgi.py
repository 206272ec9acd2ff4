"""The WSGI adapter, and Flask's on it: a WSGI environ in, a `Request` behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from socket import SHUT_RD, socket
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from macule.http import application, messages, routing
from macule.http.body import Body
from macule.http.messages import Handler, Request
from macule.memory import budget, processes
from macule.observability import log_format, metrics
from macule.server import startup

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Request as FlaskRequest
    from werkzeug.wrappers import Response as FlaskResponse

# Paths that a scheduler is pointed at; a ping to another path is answered as what it asks for.
PINGED = ("", "/", "/predict", "/predict/")


def wsgi(
    routes: Mapping[str, Handler], unlocked: Iterable[str] = (), uncounted: Iterable[str] = ()
) -> WSGIApplication:
    """Open the WSGI door: gunicorn's, and through Flask that of functions-framework.

    Args:
      unlocked: routes that ask for no key, where there are keys.
      uncounted: routes that POST and are counted against no quota.
    """
    table, boot_ms = start(routes)
    free = routing.exempt(unlocked, uncounted)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = ping(_from_environ(environ, boot_ms))
        response = application.answer(table, request, free)
        if response.status in application.REFUSED:
            from macule.security import throttling

            throttling.line().wait()
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, list(response.headers.items()))
        body = [] if request.method == "HEAD" else [response.body]
        if not request.body.left:
            return body
        from macule.security.throttling import Answer

        return Answer(body, request.body)

    return app


def from_flask(request: FlaskRequest, app: WSGIApplication) -> FlaskResponse:
    """Pass a Flask request through the WSGI door: functions-framework, Cloud Run functions."""
    from werkzeug.wrappers import Response

    return Response.from_app(app, request.environ)


def start(routes: Mapping[str, Handler]) -> tuple[messages.Table, float]:
    """Do what comes once a process, before any request; return the table, and the start's ms.

    Raises: SystemExit, with one line, where a setting cannot be used.
    """
    boot_ms = processes.age_ms()
    startup.begin()
    budget.tame()
    metrics.share()
    log_format.begin()
    return routing.table(routes), boot_ms


def ping(request: Request) -> Request:
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
