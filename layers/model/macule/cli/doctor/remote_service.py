"""Checks of a running service against docs/api.md, for `macule doctor URL`."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult
from macule.http import client
from macule.inference.decoding.formats import png
from macule.memory import budget

TOTAL_TIMEOUT_S = 60.0  # the smallest instances start faster, also after a sleep
SIDE_PX = 64  # of the test photo
MAX_CHARACTERS = 200  # of a text from the service
REQUEST_ID = "macule-doctor"
TEXT, JSON, PROBLEM = "text/plain", "application/json", "application/problem+json"
BANDS = {"idle", *budget.BANDS}


class RouteCheck(NamedTuple):
    """A request, and the expected status, content type and JSON keys."""

    method: str
    path: str
    statuses: tuple[int, ...] = (200,)
    kind: str = JSON
    keys: tuple[str, ...] = ()
    sent: str = ""
    body: bytes | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.sent})" if self.sent else "")


class Response(NamedTuple):
    """A response; `document` is empty if the body is not a JSON object."""

    reply: client.Reply
    document: dict[str, Any]
    took_ms: float

    @property
    def kind(self) -> str:
        return self.reply.headers.get("content-type", "").partition(";")[0].strip().lower()


PROBLEM_KEYS = ("type", "title", "status", "detail", "request_id")
HEALTH = RouteCheck("GET", "/health/", kind=TEXT)
MEMORY = RouteCheck("GET", "/memory/", keys=("status", "band", "pss_mb", "limit_mb", "headroom_mb"))
COMMON_ROUTES = (  # of both functions
    RouteCheck("HEAD", "/health/", kind=TEXT),
    RouteCheck("OPTIONS", "/health/", (204,), ""),
    RouteCheck("GET", "/no-such-route/", (404,), PROBLEM, PROBLEM_KEYS),
    RouteCheck("DELETE", "/health/", (405,), PROBLEM, (*PROBLEM_KEYS, "allow")),
)
MODEL = RouteCheck("GET", "/model/", keys=("name", "version", "labels", "sha256"))
READY = RouteCheck("GET", "/ready/", (200, 503), keys=("state", "model"))
PREDICTION_KEYS = ("id", "status", "model", "decision", "predictions", "explanation", "metrics")
PHOTO = RouteCheck("POST", "/predict/", keys=PREDICTION_KEYS, sent="image/png")
INVALID_PHOTO = RouteCheck("POST", "/predict/", (415,), PROBLEM, PROBLEM_KEYS, TEXT, b"no photo")
WARMUP = RouteCheck("GET", "/warmup/", keys=("state", "cold_start_ms", "stages_ms"))


def run_checks(url: str, key: str | None = None) -> Iterator[CheckResult]:
    """Check the service at *url*, within TOTAL_TIMEOUT_S.

    Yields: each result as soon as it is known.
    """
    end = time.monotonic() + TOTAL_TIMEOUT_S
    responses: dict[RouteCheck, Response] = {}
    invalid: dict[str, str] = {}

    def check(route: RouteCheck) -> CheckResult:
        left_s = round(end - time.monotonic(), 1)
        if left_s <= 0:
            return CheckResult(FAIL, route.name, f"not checked: {TOTAL_TIMEOUT_S:.0f} s are over")
        try:
            responses[route] = response = _send_request(url, route, left_s, key)
        except client.Unreachable as error:
            return CheckResult(FAIL, route.name, f"the service {error}")
        invalid.update(dict.fromkeys(invalid_headers(response), route.name))
        return _check_response(route, response)

    first = check(HEALTH)
    if HEALTH not in responses:
        yield first
        return
    if first.level == FAIL or "x-memory-band" not in responses[HEALTH].reply.headers:
        yield CheckResult(FAIL, "macule", _describe_other_server(responses[HEALTH]))
        return
    yield first
    memory = check(MEMORY)
    if MEMORY in responses and responses[MEMORY].reply.status in (401, 403):
        detail = _truncate(responses[MEMORY].document.get("detail"))
        yield CheckResult(FAIL, "key", f"{detail} Set PREDICT_KEY")
        return
    yield memory
    for route in COMMON_ROUTES:
        yield check(route)
    if MEMORY in responses:
        yield from _check_memory(responses[MEMORY].document)
    card = check(MODEL)
    kind = responses[MODEL].document.get("type") if MODEL in responses else None
    if kind == "urn:macule:problem:not-found":
        yield CheckResult(OK, "function", "this is the health function; it has no predictions")
    else:
        yield card
        photo = PHOTO._replace(body=sample_png())
        yield check(READY)
        yield check(photo)
        cold = responses.pop(photo, None)
        yield check(photo)
        yield check(INVALID_PHOTO)
        yield check(WARMUP)
        if cold and photo in responses and WARMUP in responses:
            yield _report_latency(cold, responses[photo], responses[WARMUP])
    for header, name in invalid.items():
        text = f"missing or invalid in the response to {name}"
        yield CheckResult(FAIL, header, f"{text}: check whether a proxy drops or changes it")
    if not invalid:
        yield CheckResult(OK, "headers", "valid in all responses")


def _send_request(url: str, route: RouteCheck, timeout_s: float, key: str | None) -> Response:
    headers = {"X-Request-Id": REQUEST_ID, "Cache-Control": "no-store"}  # do not cache
    if route.sent:
        headers["Content-Type"] = route.sent
    if key:
        headers["X-API-Key"] = key
    start = time.perf_counter()
    reply = client.request(url + route.path, timeout_s, route.method, route.body, headers)
    took_ms = (time.perf_counter() - start) * 1e3
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    return Response(reply, document if isinstance(document, dict) else {}, took_ms)


def _check_response(route: RouteCheck, response: Response) -> CheckResult:
    """Compare a response with its route, except for the headers of all responses."""
    status, duration = response.reply.status, f"in {response.took_ms:.0f} ms"
    if status not in route.statuses or (route.kind and response.kind != route.kind):
        expected = f"{' or '.join(map(str, route.statuses))} {route.kind}".strip()
        detail = _truncate(response.document.get("detail", ""))
        text = f"{_format_status(response)} {duration}, not {expected}. {detail}".strip()
        return CheckResult(FAIL, route.name, text)
    missing = [key for key in route.keys if key not in response.document]
    if missing and route.method != "HEAD":
        return CheckResult(FAIL, route.name, f"the response has no {', '.join(missing)}")
    return CheckResult(OK, route.name, f"{status} {duration}")


def invalid_headers(response: Response) -> list[str]:
    """Return the names of the missing or invalid headers of a response."""
    reply = response.reply
    headers, status = reply.headers, reply.status
    rules = {
        "X-Request-Id": headers.get("x-request-id") == REQUEST_ID,
        "X-Memory-Band": headers.get("x-memory-band") in BANDS,
        "Cache-Control": "no-store" in headers.get("cache-control", ""),
        "Allow": status != 405 or "allow" in headers,
        "WWW-Authenticate": status != 401 or "www-authenticate" in headers,
        "Retry-After": status not in (429, 503) or headers.get("retry-after", "").isdigit(),
        "Server-Timing": "predictions" not in response.document or "server-timing" in headers,
    }
    return [name for name, holds in rules.items() if not holds]


def _describe_other_server(response: Response) -> str:
    """Describe a server that is not macule."""
    location = response.reply.headers.get("location")
    if location:
        return (
            f"GET /health/ answered {_format_status(response)} and redirects to "
            f"{_truncate(location)}: check that URL"
        )
    missing = "" if "x-memory-band" in response.reply.headers else ", without X-Memory-Band"
    return (
        f"GET /health/ answered {_format_status(response)}{missing}: this is not macule, "
        "it is broken, or the URL lacks the path of the service"
    )


def _check_memory(document: dict[str, Any]) -> Iterator[CheckResult]:
    """Check the memory of the service, and of the predict function that it monitors."""
    keys = ("band", "pss_mb", "limit_mb", "limit_source", "headroom_mb")
    band, used, limit, source, headroom = (_truncate(document.get(key, "?")) for key in keys)
    level = OK if document.get("status") == "ok" else WARN
    text = f"band {band}, {used} of {limit} MB by {source}, {headroom} MB for photos"
    yield CheckResult(level, "memory", text)
    predict = document.get("predict")
    if isinstance(predict, dict):
        error = predict.get("error")
        if error:
            text = f"it {_truncate(error)}: check PREDICT_URL, and that the function runs"
            yield CheckResult(FAIL, "predict", text)
        else:
            yield CheckResult(OK, "predict", f"band {_truncate(predict.get('band', '?'))}")


def _report_latency(first: Response, second: Response, warmup: Response) -> CheckResult:
    metrics = first.document.get("metrics")
    cold = isinstance(metrics, dict) and metrics.get("cold_start") is True
    loading = _truncate(warmup.document.get("cold_start_ms", "?"))
    text = (
        f"first prediction {first.took_ms:.0f} ms ({'cold' if cold else 'already warm'}), second "
        f"{second.took_ms:.0f} ms, including the connection; loading the model took {loading} ms"
    )
    return CheckResult(OK, "time", text)


def sample_png() -> bytes:
    """Create a PNG: a dark square on a skin colour."""
    skin, spot, quarter = b"\xcd\xa0\x87", b"\x5c\x3c\x30", SIDE_PX // 4
    skin_row = b"\0" + skin * SIDE_PX
    spot_row = b"\0" + skin * quarter + spot * 2 * quarter + skin * quarter
    rows = skin_row * quarter + spot_row * 2 * quarter + skin_row * quarter
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return png.SIGNATURE + b"".join(png.chunk(kind, content) for kind, content in parts)


def _format_status(response: Response) -> str:
    return f"{response.reply.status} {_truncate(response.kind)}".strip()


def _truncate(value: object) -> str:
    return str(value)[:MAX_CHARACTERS]
