"""Request, Response, and the one place where errors become answers; standard library only."""

from __future__ import annotations

import json
import logging
import os
import string
import time
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from macule import errors, settings
from macule.errors import Macule, MethodNotAllowed, NotFound
from macule.http import access_control, draining
from macule.http.body import Body
from macule.memory import budget
from macule.observability import access_log

log = logging.getLogger("macule")

REFUSED = (401, 403, 429)  # whoever may not ask at all is answered before the body is read
ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.:")
ANYBODY = ""  # the caller, where there are no keys
EXPOSED = (
    "X-Request-Id, Server-Timing, X-Memory-Band, Retry-After, Location, ETag, Preference-Applied, "
    "Inference-Header-Content-Length, RateLimit, RateLimit-Policy, WWW-Authenticate"
)
# What browsers are to refuse of any answer; a page brings its own policy. HSTS is the platform's.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
INFERENCE = "/v2"  # below it stand the Open Inference Protocol's routes, and its form of an error


class Exempt(NamedTuple):
    """What is asked for no key, and what is counted against no quota: "METHOD /path"."""

    keys: frozenset[str] = frozenset()
    quotas: frozenset[str] = frozenset()


NOTHING = Exempt()


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
    routes: Table = types.MappingProxyType({})
    free: Exempt = NOTHING
    names: Mapping[str, str] = {}
    caller: str = ANYBODY
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
Table = Mapping[str, Mapping[str, Handler]]


def table(routes: Mapping[str, Handler]) -> Table:
    """Turn "GET /health/" -> handler into path -> method -> handler, paths without their slash."""
    paths: dict[str, dict[str, Handler]] = {}
    for route, handler in routes.items():
        method, path = route.split(" ")
        paths.setdefault(bare(path), {})[method] = handler
    return paths


def exempt(keys: Iterable[str], quotas: Iterable[str]) -> Exempt:
    """Read what is exempt, by names like those of routes."""
    return Exempt(frozenset(map(plain, keys)), frozenset(map(plain, quotas)))


def answer(routes: Table, request: Request, free: Exempt = NOTHING) -> Response:
    """Answer *request*; whatever goes wrong becomes a problem document, never a traceback."""
    began = request.body.once("began", time.perf_counter)
    request_id = _request_id(request.headers.get("x-request-id", ""))
    response = forward(request._replace(id=request_id, routes=routes, free=free), request.path)
    _tell(request, response, began)
    return response


def forward(request: Request, path: str, method: str = "") -> Response:
    """Answer *request* as if it had asked for *path*, of which nothing is told by itself."""
    route, names = _find(request.routes, bare(path))
    method = method or request.method
    request = request._replace(method=method, path=path, route=route, names=names)
    counted: dict[str, str] = {}
    try:
        request = request._replace(caller=access_control.caller(request))
        counted = request.body.once(("quota", route), partial(access_control.counted, request))
        response = _routed(request)
    except Macule as error:
        if error.status == 500:
            log.error("%s: %s", error.title, error)
        response = problem(error, request)
    except Exception:
        log.exception("request %s failed", request.id)
        response = problem(Macule("Something went wrong on our side; the log has it."), request)
    response.headers.update(counted)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Request-Id"] = request.id
    response.headers.update({**SAFE, **response.headers})
    response.headers["Content-Length"] = str(len(response.body))
    try:
        response.headers["X-Memory-Band"] = budget.current().band()
        _share(request, response, settings.current().allowed_origins)
    except Macule:
        pass  # a setting that cannot be read has been answered above
    told = {"id": request.id, "route": route, "key": request.caller}
    return response._replace(facts={**told, **response.facts})


def as_json(document: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Answer with JSON; header names are written with underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json", **names})


def as_html(text: str, style: str) -> Response:
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


def tagged(request: Request, response: Response) -> Response:
    """Give *response* an ETag; where the caller knows that one already, answer 304 instead."""
    import hashlib

    tag = response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response._replace(status=304, body=b"") if knows(request, tag) else response


def knows(request: Request, tag: str) -> bool:
    """Say whether the caller has what *tag*, an ETag, names."""
    given = request.headers.get("if-none-match", "").split(",")
    return bool({part.strip().removeprefix("W/") for part in given} & {tag, "*"})


def problem(error: Macule, request: Request) -> Response:
    """Write *error* as an RFC 9457 problem document."""
    document = {**errors.document(error), "request_id": request.id}
    if f"{request.path}/".startswith(f"{INFERENCE}/"):  # its clients read this member alone
        document["error"] = document["detail"]
    response = as_json(document, error.status)
    response.headers["Content-Type"] = "application/problem+json"
    response.headers.update(error.headers())
    return response._replace(facts={**error.figures, "slug": error.slug})


def _tell(request: Request, response: Response, began: float) -> None:
    """Hand all that is known of a request to `record`."""
    body, stages = request.body, dict(response.stages)
    if body.began is not None:
        waited_ms = stages.pop("wait", 0.0) + (body.began - began - body.arrival_s) * 1e3
        read_ms = (body.arrival_s + body.read_s) * 1e3
        stages = {"wait": waited_ms, "read": read_ms, **stages}
    facts = {
        **response.facts,
        "method": request.method,
        "status": response.status,
        "ms": round((time.perf_counter() - began) * 1e3, 2),
        "bytes": body.read_bytes,
        "band": response.headers.get("X-Memory-Band"),
        "address": request.address,
    }
    access_log.answered(facts, stages, request.headers)


def _routed(request: Request) -> Response:
    """Call what serves the request's route."""
    if not request.route:
        raise NotFound(f"There is no {request.path[:80]} here.", routes=sorted(request.routes))
    methods = request.routes[request.route]
    method = "GET" if request.method == "HEAD" else request.method
    if method in methods:
        request.body.once("let in", partial(draining.refuse, request.route))
        return methods[method](request)
    allowed = sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])})
    if method == "OPTIONS":
        return Response(204, b"", {"Allow": ", ".join(allowed)})
    raise MethodNotAllowed(f"{request.path[:80]} takes {', '.join(allowed)}.", allowed)


def _find(routes: Table, path: str) -> tuple[str, dict[str, str]]:
    """Find what answers at *path*: itself, or a route with {names} in place of its parts; or ""."""
    if path in routes:
        return path, {}
    parts = path.split("/")
    for route in routes:
        pairs = list(zip(route.split("/"), parts, strict=False))
        named = {known[1:-1]: part for known, part in pairs if known[:1] == "{" and part}
        same = sum(known == part for known, part in pairs)
        if named and len(pairs) == len(parts) == route.count("/") + 1 == same + len(named):
            return route, named
    return "", {}


def plain(route: str) -> str:
    """Write "GET /health/" as its route is looked up."""
    method, path = route.split(" ")
    return f"{method} {bare(path)}"


def bare(path: str) -> str:
    """Drop one trailing slash: every path answers with and without."""
    return path.removesuffix("/") or "/"


def _request_id(given: str) -> str:
    """Echo the caller's id where it is harmless in a header and a log; else make one."""
    if given and len(given) <= 128 and ID_CHARACTERS.issuperset(given):
        return given
    return os.urandom(12).hex()


def _share(request: Request, response: Response, allowed: tuple[str, ...]) -> None:
    """Let front ends of the allowed origins read the answer (CORS)."""
    if not allowed:
        return
    headers, origin = response.headers, request.headers.get("origin", "")
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Origin")))
    if origin not in allowed and not (origin and "*" in allowed):
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET")
        wanted = request.headers.get("access-control-request-headers", "")
        headers["Access-Control-Allow-Headers"] = wanted or "Content-Type"
        headers["Access-Control-Max-Age"] = "600"
