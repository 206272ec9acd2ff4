"""The WSGI adapter: a WSGI environ to a `Request`, and a `Response` back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from socket import SHUT_RD, socket
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from macule.http import application, routing
from macule.http.body import Body
from macule.http.messages import Handler, Request
from macule.memory import processes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Only pings to these paths become warm-ups; others are ordinary requests.
PING_PATHS = ("", "/", "/predict", "/predict/")


def create_app(
    routes: Mapping[str, Handler], public: Iterable[str] = (), unmetered: Iterable[str] = ()
) -> WSGIApplication:
    """Return a WSGI application that serves *routes*.

    Args:
      public: routes that need no key even if the service has keys.
      unmetered: POST routes that are not counted against a quota.
    """
    table, boot_ms = routing.build_table(routes), processes.age_ms()
    exemptions = routing.parse_exemptions(public, unmetered)

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = rewrite_ping(_from_environ(environ, boot_ms))
        response = application.respond(table, request, exemptions)
        if response.status in application.REFUSED_STATUSES:
            from macule.security import throttling

            throttling.pacer().wait()
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, list(response.headers.items()))
        body = [] if request.method == "HEAD" else [response.body]
        if not request.body.has_unread:
            return body
        return UnreadBodyResponse(body, request.body)

    return respond


def rewrite_ping(request: Request) -> Request:
    """Turn a scheduler's ping, detected by its headers, into a request for /warmup/."""
    pings = (
        request.headers.get("x-warmup") == "1"
        or request.headers.get("x-cloudscheduler", "").lower() == "true"
    )
    if pings and request.body.length in (None, 0) and request.path in PING_PATHS:
        return request._replace(method="GET", path="/warmup/")
    return request


def _from_environ(environ: WSGIEnvironment, boot_ms: float) -> Request:
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    headers["content-type"] = environ.get("CONTENT_TYPE", "")
    declared = environ.get("CONTENT_LENGTH") or ""
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    is_number = declared.isascii() and declared.isdigit()
    length = int(declared) if is_number else (None if chunked else 0)
    return Request(
        environ["REQUEST_METHOD"],
        environ.get("PATH_INFO") or "/",
        dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)),
        headers,
        Body(environ["wsgi.input"], length, _abort_read(environ.get("gunicorn.socket"))),
        boot_ms,
        address=environ.get("REMOTE_ADDR", ""),
    )


def _abort_read(connection: socket | None) -> Callable[[], None] | None:
    """Return a function that ends a blocked read; a response can still be sent."""
    if connection is None:
        return None

    def shut() -> None:
        with suppress(OSError):  # the sender is gone
            connection.shutdown(SHUT_RD)

    return shut


class UnreadBodyResponse:
    """A response that is sent before the rest of the request body is read."""

    def __init__(self, content: list[bytes], body: Body) -> None:
        self._content, self._body = content, body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)

    def close(self) -> None:
        """Discard the body: a server calls this after it sent the response (PEP 3333)."""
        self._body.discard()
