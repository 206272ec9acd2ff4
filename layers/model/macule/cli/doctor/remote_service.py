"""`macule doctor URL`: a running service held against what docs/api.md promises."""

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

TOTAL_TIMEOUT_S = 60.0  # a sleeping instance of the smallest kind wakes in less
SIDE_PX = 64  # of the photo that is sent
MAX_CHARACTERS = 200  # of what a service says
REQUEST_ID = "macule-doctor"
TEXT, JSON, PROBLEM = "text/plain", "application/json", "application/problem+json"
BANDS = {"idle", *budget.BANDS}


class RouteCheck(NamedTuple):
    """A request, and what must come back: a status, a type, keys of the document."""

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
    """What came back; the document is empty where the body is no JSON object."""

    reply: client.Reply
    document: dict[str, Any]
    took_ms: float

    @property
    def kind(self) -> str:
        return self.reply.headers.get("content-type", "").partition(";")[0].strip().lower()


PROBLEM_KEYS = ("type", "title", "status", "detail", "request_id")
HEALTH = RouteCheck("GET", "/health/", kind=TEXT)
MEMORY = RouteCheck("GET", "/memory/", keys=("status", "band", "pss_mb", "limit_mb", "headroom_mb"))
COMMON_ROUTES = (  # what both functions promise
    RouteCheck("HEAD", "/health/", kind=TEXT),
    RouteCheck("OPTIONS", "/health/", (204,), ""),
    RouteCheck("GET", "/no-such-route/", (404,), PROBLEM, PROBLEM_KEYS),
    RouteCheck("DELETE", "/health/", (405,), PROBLEM, (*PROBLEM_KEYS, "allow")),
)
MODEL = RouteCheck("GET", "/model/", keys=("name", "version", "labels", "sha256"))
READY = RouteCheck("GET", "/ready/", (200, 503), keys=("state", "model"))
PREDICTION_KEYS = ("id", "status", "model", "decision", "predictions", "explanation", "metrics")
INVALID_PHOTO = RouteCheck("POST", "/predict/", (415,), PROBLEM, PROBLEM_KEYS, TEXT, b"no photo")
WARMUP = RouteCheck("GET", "/warmup/", keys=("state", "cold_start_ms", "stages_ms"))


def run_checks(url: str, key: str | None = None) -> Iterator[CheckResult]:
    """Examine the service at *url*, in at most TOTAL_S; each finding comes as it is made."""
    end = time.monotonic() + TOTAL_TIMEOUT_S
    seen: dict[RouteCheck, Response] = {}
    wrong: dict[str, str] = {}

    def visit(call: RouteCheck) -> CheckResult:
        left_s = round(end - time.monotonic(), 1)
        if left_s <= 0:
            return CheckResult(FAIL, call.name, f"not asked, as {TOTAL_TIMEOUT_S:.0f} s are over")
        try:
            seen[call] = answer = _send_request(url, call, left_s, key)
        except client.Unreachable as error:
            return CheckResult(FAIL, call.name, f"the service {error}")
        wrong.update(dict.fromkeys(_invalid_headers(answer), call.name))
        return _check_response(call, answer)

    first = visit(HEALTH)
    if HEALTH in seen and (
        first.level == FAIL or "x-memory-band" not in seen[HEALTH].reply.headers
    ):
        yield CheckResult(FAIL, "macule", _describe_other_server(seen[HEALTH]))
        return
    yield first
    if HEALTH not in seen:
        return
    memory = visit(MEMORY)
    if MEMORY in seen and seen[MEMORY].reply.status in (401, 403):
        yield CheckResult(
            FAIL, "key", f"{_truncate(seen[MEMORY].document.get('detail'))} Set PREDICT_KEY"
        )
        return
    yield memory
    for call in COMMON_ROUTES:
        yield visit(call)
    if MEMORY in seen:
        yield from _check_memory(seen[MEMORY].document)
    card = visit(MODEL)
    if MODEL in seen and seen[MODEL].document.get("type") == "urn:macule:problem:not-found":
        yield CheckResult(OK, "function", "this is the health function; it predicts nothing")
    else:
        yield card
        photo = RouteCheck(
            "POST", "/predict/", keys=PREDICTION_KEYS, sent="image/png", body=_test_png()
        )
        yield visit(READY)
        yield visit(photo)
        cold = seen.pop(photo, None)
        yield visit(photo)
        yield visit(INVALID_PHOTO)
        yield visit(WARMUP)
        if cold and photo in seen and WARMUP in seen:
            yield _report_latency(cold, seen[photo], seen[WARMUP])
    for header, name in wrong.items():
        what = "is missing or wrong, as in the answer to"
        yield CheckResult(FAIL, header, f"{what} {name}: does a proxy in front drop or change it?")
    if not wrong:
        yield CheckResult(OK, "headers", "as docs/api.md promises them, in each answer")


def _send_request(url: str, call: RouteCheck, timeout_s: float, key: str | None) -> Response:
    headers = {"X-Request-Id": REQUEST_ID, "Cache-Control": "no-store"}  # compute, keep nothing
    if call.sent:
        headers["Content-Type"] = call.sent
    if key:
        headers["X-API-Key"] = key
    began = time.perf_counter()
    reply = client.ask(url + call.path, timeout_s, call.method, call.body, headers)
    took_ms = (time.perf_counter() - began) * 1e3
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    return Response(reply, document if isinstance(document, dict) else {}, took_ms)


def _check_response(call: RouteCheck, answer: Response) -> CheckResult:
    """Hold an answer against what its call promises, but for the headers of every answer."""
    status, took = answer.reply.status, f"in {answer.took_ms:.0f} ms"
    if status not in call.statuses or (call.kind and answer.kind != call.kind):
        expected = f"{' or '.join(map(str, call.statuses))} {call.kind}".strip()
        said = _truncate(answer.document.get("detail", ""))
        text = f"{_format_status(answer)} {took}, not {expected}. {said}".strip()
        return CheckResult(FAIL, call.name, text)
    lacking = [key for key in call.keys if key not in answer.document]
    if lacking and call.method != "HEAD":
        return CheckResult(FAIL, call.name, f"the answer lacks {', '.join(lacking)}")
    return CheckResult(OK, call.name, f"{status} {took}")


def _invalid_headers(answer: Response) -> list[str]:
    """Name the headers that every answer, or one of its status, should have and has not."""
    reply = answer.reply
    headers, status = reply.headers, reply.status
    rules = {
        "X-Request-Id": headers.get("x-request-id") == REQUEST_ID,
        "X-Memory-Band": headers.get("x-memory-band") in BANDS,
        "Cache-Control": "no-store" in headers.get("cache-control", ""),
        "Allow": status != 405 or "allow" in headers,
        "WWW-Authenticate": status != 401 or "www-authenticate" in headers,
        "Retry-After": status not in (429, 503) or headers.get("retry-after", "").isdigit(),
        "Server-Timing": "predictions" not in answer.document or "server-timing" in headers,
    }
    return [name for name, holds in rules.items() if not holds]


def _describe_other_server(answer: Response) -> str:
    """Say what answered instead of macule."""
    to = answer.reply.headers.get("location")
    if to:
        return f"GET /health/ answered {_format_status(answer)} and points to {_truncate(to)}: examine that"
    lacks = "" if "x-memory-band" in answer.reply.headers else ", without X-Memory-Band"
    return (
        f"GET /health/ answered {_format_status(answer)}{lacks}: this is not macule, or it is broken, or "
        "its address goes on below a path"
    )


def _check_memory(document: dict[str, Any]) -> Iterator[CheckResult]:
    """Tell the service's memory, and that of a predict function that it watches."""
    keys = ("band", "pss_mb", "limit_mb", "limit_source", "headroom_mb")
    band, used, limit, source, headroom = (_truncate(document.get(key, "?")) for key in keys)
    level = OK if document.get("status") == "ok" else WARN
    text = f"band {band}, {used} of {limit} MB by {source}, {headroom} MB for photos"
    yield CheckResult(level, "memory", text)
    watched = document.get("predict")
    if isinstance(watched, dict):
        error = watched.get("error")
        if error:
            yield CheckResult(
                FAIL, "predict", f"it {_truncate(error)}: is PREDICT_URL right, and it up?"
            )
        else:
            yield CheckResult(OK, "predict", f"band {_truncate(watched.get('band', '?'))}")


def _report_latency(first: Response, second: Response, warmup: Response) -> CheckResult:
    metrics = first.document.get("metrics")
    cold = isinstance(metrics, dict) and metrics.get("cold_start") is True
    loading = _truncate(warmup.document.get("cold_start_ms", "?"))
    return CheckResult(
        OK,
        "time",
        f"first prediction {first.took_ms:.0f} ms ({'cold' if cold else 'it was warm'}), second "
        f"{second.took_ms:.0f} ms, with connecting; loading the model took {loading} ms",
    )


def _test_png() -> bytes:
    """Draw a dark square on skin, as PNG."""
    skin, spot, quarter = b"\xcd\xa0\x87", b"\x5c\x3c\x30", SIDE_PX // 4
    plain = b"\0" + skin * SIDE_PX
    marked = b"\0" + skin * quarter + spot * 2 * quarter + skin * quarter
    rows = plain * quarter + marked * 2 * quarter + plain * quarter
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return png.SIGNATURE + b"".join(png.chunk(kind, content) for kind, content in parts)


def _format_status(answer: Response) -> str:
    return f"{answer.reply.status} {_truncate(answer.kind)}".strip()


def _truncate(value: object) -> str:
    return str(value)[:MAX_CHARACTERS]
