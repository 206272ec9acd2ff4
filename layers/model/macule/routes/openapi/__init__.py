"""The routes that explain the others: an OpenAPI document, and the same as a page to read."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

from macule.http import static_files
from macule.http.messages import Exempt, Request, Response

FOLDER = os.path.join(os.path.dirname(__file__), "page")
FILES = {"docs.css": "text/css; charset=utf-8", "docs.js": "text/javascript; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# Writing the document and its page takes 40 ms each: once a process, the first time one is asked
# for. 20 kB and 25 kB are kept.
_written: dict[tuple[Callable[[Request], str], tuple[str, ...], Exempt], static_files.Packed] = {}
_writing = Lock()


def document(request: Request) -> Response:
    """GET /openapi.json: what the function that answers answers, as OpenAPI 3.1."""
    return _respond(request, _document, {"Content-Type": "application/json"})


def docs(request: Request) -> Response:
    """GET /docs/: the same document for a person; its script sends only what the reader sends."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
    return _respond(request, _docs, headers)


def file(request: Request) -> Response:
    """GET /docs/{file}: a file of that page."""
    return static_files.file(request, FOLDER, FILES)


def _document(request: Request) -> str:
    import json

    from macule.routes.openapi import specification

    document = specification.document(request.routes, request.free)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _docs(request: Request) -> str:
    from macule.routes.openapi import page, specification

    versions = {name: static_files.version(os.path.join(FOLDER, name)) for name in FILES}
    return page.html(specification.document(request.routes, request.free), versions)


def _respond(
    request: Request, write: Callable[[Request], str], headers: dict[str, str]
) -> Response:
    """Let what changes with the version alone be kept; it is asked for anew by its ETag."""
    names = tuple(f"{method} {path}" for path in request.routes for method in request.routes[path])
    key = write, names, request.free
    with _writing:
        if key not in _written:
            _written[key] = static_files.pack(write(request).encode())
    return static_files.sent(request, _written[key], {"Cache-Control": "no-cache", **headers})
