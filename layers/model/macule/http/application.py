"""Request, Response, and the one place where errors become answers; standard library only."""

from __future__ import annotations

import logging
import os
import string
import time
from functools import partial

from macule import errors, settings
from macule.errors import Macule, MethodNotAllowed, NotFound
from macule.http import access_control, cors, draining, messages, routing
from macule.http.messages import NOTHING, Exempt, Request, Response, Table
from macule.memory import budget
from macule.observability import access_log

log = logging.getLogger("macule")

REFUSED = (401, 403, 429)  # whoever may not ask at all is answered before the body is read
ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.:")
# What browsers are to refuse of any answer; a page brings its own policy. HSTS is the platform's.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
INFERENCE = "/v2"  # below it stand the Open Inference Protocol's routes, and its form of an error


def answer(routes: Table, request: Request, free: Exempt = NOTHING) -> Response:
    """Answer *request*; whatever goes wrong becomes a problem document, never a traceback."""
    began = request.body.once("began", time.perf_counter)
    request_id = _request_id(request.headers.get("x-request-id", ""))
    response = forward(request._replace(id=request_id, routes=routes, free=free), request.path)
    _tell(request, response, began)
    return response


def forward(request: Request, path: str, method: str = "") -> Response:
    """Answer *request* as if it had asked for *path*, of which nothing is told by itself."""
    route, names = routing.find(request.routes, routing.bare(path))
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
        cors.share(request, response, settings.current().allowed_origins)
    except Macule:
        pass  # a setting that cannot be read has been answered above
    told = {"id": request.id, "route": route, "key": request.caller}
    return response._replace(facts={**told, **response.facts})


def problem(error: Macule, request: Request) -> Response:
    """Write *error* as an RFC 9457 problem document."""
    document = {**errors.document(error), "request_id": request.id}
    if f"{request.path}/".startswith(f"{INFERENCE}/"):  # its clients read this member alone
        document["error"] = document["detail"]
    response = messages.as_json(document, error.status)
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
        "address": access_control.logged_address(request),
    }
    access_log.log_request(facts, stages, request.headers)


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


def _request_id(given: str) -> str:
    """Echo the caller's id where it is harmless in a header and a log; else make one."""
    if given and len(given) <= 128 and ID_CHARACTERS.issuperset(given):
        return given
    return os.urandom(12).hex()
