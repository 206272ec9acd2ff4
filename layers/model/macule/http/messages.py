"""Requests and responses; JSON, HTML and ETags. Standard library only."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from macule.http.body import Body

ANONYMOUS = ""  # the caller if the service has no keys


class Exemptions(NamedTuple):
    """Routes, as "METHOD /path", that need no key or are not counted against a quota."""

    keys: frozenset[str] = frozenset()
    quotas: frozenset[str] = frozenset()


NO_EXEMPTIONS = Exemptions()


class Request(NamedTuple):
    """One HTTP request; header names in lower case.

    `boot_ms` is the time from the start of the process until it could serve. `address` is the
    direct client's, as the platform reports it; often a proxy's.

    The application adds the rest: `id`, the X-Request-Id; `route`, the matching path in `routes`,
    "" if there is none; `names`, the values of the route's {names}; `caller`, the name of the API
    key; `exemptions`, the routes that need neither key nor quota.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body
    boot_ms: float = 0.0
    id: str = ""
    route: str = ""
    routes: RouteTable = types.MappingProxyType({})
    exemptions: Exemptions = NO_EXEMPTIONS
    names: Mapping[str, str] = {}
    caller: str = ANONYMOUS
    address: str = ""


class Response(NamedTuple):
    """One HTTP response.

    `facts` and `stages` (milliseconds by name) are not sent: they are for the access log.
    """

    status: int
    body: bytes
    headers: dict[str, str]
    facts: Mapping[str, Any] = types.MappingProxyType({})
    stages: Mapping[str, float] = types.MappingProxyType({})


Handler = Callable[[Request], Response]
RouteTable = Mapping[str, Mapping[str, Handler]]


def json_response(document: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Return a JSON response; *headers* have underscores instead of hyphens."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json", **names})


def html_response(text: str, style: str) -> Response:
    """Return a page that may load nothing but *style*, the text of its only style element."""
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    kind = "text/html; charset=utf-8"
    return Response(200, text.encode(), {"Content-Type": kind, "Content-Security-Policy": policy})


def with_etag(request: Request, response: Response) -> Response:
    """Add an ETag to *response*; return a 304 if the caller has that version already."""
    import hashlib

    tag = response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response._replace(status=304, body=b"") if etag_matches(request, tag) else response


def etag_matches(request: Request, tag: str) -> bool:
    """Return whether *tag* is in the request's If-None-Match."""
    known = request.headers.get("if-none-match", "").split(",")
    return bool({part.strip().removeprefix("W/") for part in known} & {tag, "*"})
