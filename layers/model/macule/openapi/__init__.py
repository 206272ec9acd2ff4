"""The routes that explain the others: an OpenAPI document, and the same as a page to read."""

from __future__ import annotations

from macule import http
from macule.http import Request, Response


def document(request: Request) -> Response:
    """GET /openapi.json: what the door that answers answers, as OpenAPI 3.1."""
    from macule.openapi import specification

    return _kept(request, http.as_json(specification.document(request.routes, request.free)))


def docs(request: Request) -> Response:
    """GET /docs/: the same document for a person, without scripts."""
    from macule.openapi import page, specification

    html = page.html(specification.document(request.routes, request.free))
    return _kept(request, http.as_html(html, page.style()))


def _kept(request: Request, answer: Response) -> Response:
    """Let what changes with the version alone be kept; it is asked for anew by its ETag."""
    answer.headers["Cache-Control"] = "no-cache"
    return http.tagged(request, answer)
