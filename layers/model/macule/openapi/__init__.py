"""The routes that explain the others: an OpenAPI document, and the same as a page to read."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from macule import http
from macule.http import Exempt, Request, Response

# Writing the document takes 20 ms and its page 40: once a process, the first time it is asked for.
_written: dict[tuple[Callable[[Request], Response], tuple[str, ...], Exempt], Response] = {}
_writing = Lock()


def document(request: Request) -> Response:
    """GET /openapi.json: what the door that answers answers, as OpenAPI 3.1."""
    return _kept(request, _document)


def docs(request: Request) -> Response:
    """GET /docs/: the same document for a person, without scripts."""
    return _kept(request, _docs)


def _document(request: Request) -> Response:
    from macule.openapi import specification

    return http.as_json(specification.document(request.routes, request.free))


def _docs(request: Request) -> Response:
    from macule.openapi import page, specification

    html = page.html(specification.document(request.routes, request.free))
    return http.as_html(html, page.style())


def _kept(request: Request, write: Callable[[Request], Response]) -> Response:
    """Let what changes with the version alone be kept; it is asked for anew by its ETag."""
    names = tuple(f"{method} {path}" for path in request.routes for method in request.routes[path])
    with _writing:
        key = write, names, request.free
        written = _written[key] = _written.get(key) or write(request)
    answer = written._replace(headers={**written.headers, "Cache-Control": "no-cache"})
    return http.tagged(request, answer)
