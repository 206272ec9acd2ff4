"""The application: from a request to a response, errors included; standard library only."""

from __future__ import annotations

import logging
import os
import string
import time
from functools import partial

from macule import errors, settings
from macule.errors import Macule, MethodNotAllowed, NotFound
from macule.http import access_control, draining, messages, routing
from macule.http.messages import NO_EXEMPTIONS, Exemptions, Request, Response, RouteTable
from macule.memory import budget
from macule.observability import access_log

log = logging.getLogger("macule")

REFUSED_STATUSES = (401, 403, 429)  # sent before the body is read
ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.:")
# Defaults for all responses; a page sets its own policy. HSTS is left to the platform.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
EXPOSED_HEADERS = (
    "X-Request-Id, Server-Timing, X-Memory-Band, Retry-After, Location, ETag, Preference-Applied, "
    "Inference-Header-Content-Length, RateLimit, RateLimit-Policy, WWW-Authenticate"
)
OPEN_INFERENCE_PREFIX = "/v2"  # routes of the Open Inference Protocol, with its error format


def respond(
    routes: RouteTable, request: Request, exemptions: Exemptions = NO_EXEMPTIONS
) -> Response:
    """Answer and log *request*; every error becomes a problem document, never a traceback."""
    started_at = request.body.compute_once("started_at", time.perf_counter)
    request_id = _request_id(request.headers.get("x-request-id", ""))
    request = request._replace(id=request_id, routes=routes, exemptions=exemptions)
    response = dispatch(request, request.path)
    _log_request(request, response, started_at)
    return response


def dispatch(request: Request, path: str, method: str = "") -> Response:
    """Answer *request* as if it were for *path*, without logging it."""
    route, names = routing.match(request.routes, routing.normalize_path(path))
    method = method or request.method
    request = request._replace(method=method, path=path, route=route, names=names)
    rate_limit_headers: dict[str, str] = {}
    try:
        request = request._replace(caller=access_control.authenticate(request))
        rate_limit_headers = request.body.compute_once(
            ("quota", route), partial(access_control.check_rate_limit, request)
        )
        response = _call_handler(request)
    except Macule as error:
        if error.status == 500:
            log.error("%s: %s", error.title, error)
        response = problem(error, request)
    except Exception:
        log.exception("request %s failed", request.id)
        response = problem(Macule("The request failed with an unexpected error."), request)
    response.headers.update(rate_limit_headers)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Request-Id"] = request.id
    response.headers.update({**SECURITY_HEADERS, **response.headers})
    response.headers["Content-Length"] = str(len(response.body))
    try:
        response.headers["X-Memory-Band"] = budget.current().band()
        _add_cors_headers(request, response, settings.current().allowed_origins)
    except Macule:
        pass  # an invalid setting: the response already reports it
    facts = {"id": request.id, "route": route, "key": request.caller}
    return response._replace(facts={**facts, **response.facts})


def problem(error: Macule, request: Request) -> Response:
    """Return *error* as an RFC 9457 problem document."""
    document = {**errors.problem_document(error), "request_id": request.id}
    if f"{request.path}/".startswith(f"{OPEN_INFERENCE_PREFIX}/"):
        document["error"] = document["detail"]  # the only member that its clients read
    response = messages.json_response(document, error.status)
    response.headers["Content-Type"] = "application/problem+json"
    response.headers.update(error.headers())
    return response._replace(facts={**error.figures, "slug": error.slug})


def _log_request(request: Request, response: Response, started_at: float) -> None:
    body, stages = request.body, dict(response.stages)
    if body.started_at is not None:
        waited_ms = stages.pop("wait", 0.0) + (body.started_at - started_at - body.arrival_s) * 1e3
        read_ms = (body.arrival_s + body.read_s) * 1e3
        stages = {"wait": waited_ms, "read": read_ms, **stages}
    facts = {
        **response.facts,
        "method": request.method,
        "status": response.status,
        "ms": round((time.perf_counter() - started_at) * 1e3, 2),
        "bytes": body.read_bytes,
        "band": response.headers.get("X-Memory-Band"),
        "address": access_control.logged_address(request),
    }
    access_log.log_request(facts, stages, request.headers)


def _call_handler(request: Request) -> Response:
    if not request.route:
        raise NotFound(f"There is no route {request.path[:80]}.", routes=sorted(request.routes))
    methods = request.routes[request.route]
    method = "GET" if request.method == "HEAD" else request.method
    if method in methods:
        request.body.compute_once("draining", partial(draining.refuse_if_draining, request.route))
        return methods[method](request)
    allowed = sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])})
    if method == "OPTIONS":
        return Response(204, b"", {"Allow": ", ".join(allowed)})
    raise MethodNotAllowed(f"{request.path[:80]} takes {', '.join(allowed)}.", allowed)


def _add_cors_headers(request: Request, response: Response, allowed: tuple[str, ...]) -> None:
    """Let front ends of the *allowed* origins read the response (Fetch standard, 3.2)."""
    if not allowed:
        return
    headers, origin = response.headers, request.headers.get("origin", "")
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Origin")))
    if origin not in allowed and not (origin and "*" in allowed):
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET")
        requested = request.headers.get("access-control-request-headers", "")
        headers["Access-Control-Allow-Headers"] = requested or "Content-Type"
        headers["Access-Control-Max-Age"] = "600"


def _request_id(received: str) -> str:
    """Return the caller's id if it is safe in headers and logs, else a new one."""
    if received and len(received) <= 128 and ID_CHARACTERS.issuperset(received):
        return received
    return os.urandom(12).hex()
