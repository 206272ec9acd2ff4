"""Requests, responses and what they have in common: JSON, HTML, ETags. Standard library only."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from macule.http.body import Body

ANONYMOUS = ""  # the caller, where there are no keys


class Exemptions(NamedTuple):
    """What is asked for no key, and what is counted against no quota: "METHOD /path"."""

    keys: frozenset[str] = frozenset()
    quotas: frozenset[str] = frozenset()


NO_EXEMPTIONS = Exemptions()


class Request(NamedTuple):
    """One HTTP request; header names in lower case.

    `boot_ms` is the time from the start of the process to the opening of its door. `answer` adds
    the rest: `id`, what the caller is told it by; `route`, the path of the entry of `routes` that
    serves it, "" where none does; `names`, what stood where it has {names}; `caller`, whose it is;
    `free`, what needs neither key nor quota.
    `address` is that of whoever sent it to us, as the platform says; often a proxy's.
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
    """One HTTP answer.

    `facts` and `stages`, milliseconds by name, are never sent: they are for `record`.
    """

    status: int
    body: bytes
    headers: dict[str, str]
    facts: Mapping[str, Any] = types.MappingProxyType({})
    stages: Mapping[str, float] = types.MappingProxyType({})


Handler = Callable[[Request], Response]
RouteTable = Mapping[str, Mapping[str, Handler]]


def json_response(document: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Answer with JSON; header names are written with underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json", **names})


def html_response(text: str, style: str) -> Response:
    """Answer with a page that may load nothing but *style*, the text of its one style element."""
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
    """Give *response* an ETag; where the caller knows that one already, answer 304 instead."""
    import hashlib

    tag = response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response._replace(status=304, body=b"") if etag_matches(request, tag) else response


def etag_matches(request: Request, tag: str) -> bool:
    """Say whether the caller has what *tag*, an ETag, names."""
    given = request.headers.get("if-none-match", "").split(",")
    return bool({part.strip().removeprefix("W/") for part in given} & {tag, "*"})
