"""The routes that explain the others: an OpenAPI document, and the same as a page to read."""

from __future__ import annotations

import json

from macule import http
from macule.http import Request, Response


def document(request: Request) -> Response:
    """GET /openapi.json: what the door that answers answers, as OpenAPI 3.1."""
    from macule.openapi import specification

    text = json.dumps(specification.document(request.routes), ensure_ascii=False)
    return _kept(request, text, {"Content-Type": "application/json"})


def docs(request: Request) -> Response:
    """GET /docs/: the same document for a person, without scripts."""
    from macule.openapi import page, specification

    return _kept(request, page.html(specification.document(request.routes)), page.headers())


def _kept(request: Request, text: str, headers: dict[str, str]) -> Response:
    """Answer with what changes with the version alone: it may be kept, and is asked for anew."""
    answer = Response(200, text.encode(), {**headers, "Cache-Control": "no-cache"})
    return http.tagged(request, answer)
