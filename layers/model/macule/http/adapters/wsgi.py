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

# Paths that a scheduler is pointed at; a ping to another path is answered as what it asks for.
PING_PATHS = ("", "/", "/predict", "/predict/")


def create_app(
    routes: Mapping[str, Handler], unlocked: Iterable[str] = (), uncounted: Iterable[str] = ()
) -> WSGIApplication:
    """Make the WSGI application that serves *routes*, for gunicorn and any other WSGI server.

    Args:
      unlocked: routes that ask for no key, where there are keys.
      uncounted: routes that POST and are counted against no quota.
    """
    table, boot_ms = routing.build_table(routes), processes.age_ms()
    exemptions = routing.parse_exemptions(unlocked, uncounted)

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
    """Recognise a warm-up by its headers and let it ask for /warmup/."""
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
    given = environ.get("CONTENT_LENGTH") or ""
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = int(given) if given.isascii() and given.isdigit() else (None if chunked else 0)
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
    """Make what ends a read that waits for a sender; an answer can still be sent."""
    if connection is None:
        return None

    def shut() -> None:
        with suppress(OSError):  # the sender is gone
            connection.shutdown(SHUT_RD)

    return shut


class UnreadBodyResponse:
    """A response that is sent before the rest of the request body is read."""

    def __init__(self, answer: list[bytes], body: Body) -> None:
        self._answer, self._body = answer, body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)

    def close(self) -> None:
        """Be done with the body: a server calls this when it has sent the answer (PEP 3333)."""
        self._body.discard()
