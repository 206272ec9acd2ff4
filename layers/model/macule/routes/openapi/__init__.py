"""Routes of the OpenAPI document, as JSON and as a page."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

from macule.http import static_files
from macule.http.messages import Exemptions, Request, Response

FOLDER = os.path.join(os.path.dirname(__file__), "page")
FILES = {"docs.css": "text/css; charset=utf-8", "docs.js": "text/javascript; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
Write = Callable[[Request], str]
# Building the document and the page takes 40 ms each, at the first request of a process. They take
# 20 kB and 25 kB.
_built: dict[tuple[Write, tuple[str, ...], Exemptions], static_files.CompressedText] = {}
_building = Lock()


def document(request: Request) -> Response:
    """GET /openapi.json: the OpenAPI 3.1 document of this function."""
    return _respond(request, _document, {"Content-Type": "application/json"})


def docs(request: Request) -> Response:
    """GET /docs/: the document as a page; its script sends requests only on the reader's click."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
    return _respond(request, _docs, headers)


def file(request: Request) -> Response:
    """GET /docs/{file}: a static file of the page."""
    return static_files.file_response(request, FOLDER, FILES)


def _document(request: Request) -> str:
    import json

    from macule.routes.openapi import specification

    document = specification.document(request.routes, request.exemptions)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _docs(request: Request) -> str:
    from macule.routes.openapi import page, specification

    versions = {name: static_files.file_version(os.path.join(FOLDER, name)) for name in FILES}
    return page.html(specification.document(request.routes, request.exemptions), versions)


def _respond(request: Request, write: Write, headers: dict[str, str]) -> Response:
    """Respond with a text that is built once; clients revalidate it by its ETag."""
    names = tuple(f"{method} {path}" for path in request.routes for method in request.routes[path])
    key = write, names, request.exemptions
    with _building:
        if key not in _built:
            _built[key] = static_files.compress(write(request).encode())
    headers = {"Cache-Control": "no-cache", **headers}
    return static_files.text_response(request, _built[key], headers)
