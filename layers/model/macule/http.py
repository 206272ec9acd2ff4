"""Request, Response, and the one place where errors become answers; standard library only."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import string
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Any, BinaryIO, NamedTuple

from macule import budget, errors, record, settings
from macule.errors import (
    BadRequest,
    BodyTooLarge,
    Macule,
    MethodNotAllowed,
    NotFound,
    SlowBody,
    Unavailable,
)

log = logging.getLogger("macule")

CHUNK_BYTES = 2**18  # each read gives the GIL away, and may wait 5 ms for it
# After a refusal the rest of a body is read and dropped, or the caller's client sees its
# connection break instead of the answer. Bounded: beyond this it does break.
DRAIN_BYTES = 32 * 2**20
DRAIN_S = 5.0
LOOK_S = 0.1  # at the clock, while bodies are read
LEAST_BYTES_PER_S = 2**15  # a photo of 3 MB within 100 s: a phone at the edge of its network
ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.:")
ANYBODY = ""  # the caller, where there are no keys
EXPOSED = "X-Request-Id, Server-Timing, X-Memory-Band, Retry-After"


class Body:
    """A request's bytes, read once.

    Args:
      length: None where the sender gave none.
      hang_up: ends what *stream* waits for; without it a slow sender is waited for as long as the
        server's own time-outs say.
    """

    def __init__(
        self, stream: BinaryIO, length: int | None, hang_up: Callable[[], None] | None = None
    ) -> None:
        self._stream = stream
        self.length = length
        self._hang_up = hang_up
        self._read = 0
        self.began: float | None = None  # the first read, by time.perf_counter
        self.read_s = 0.0
        self._ended = length == 0
        self._late = False

    def chunks(self, limit_bytes: int, timeout_s: float = math.inf) -> Iterator[bytes]:
        """Yield the body in pieces, never more than *limit_bytes* in all.

        It may take *timeout_s*, and a second more for each LEAST_BYTES_PER_S that came.
        Raises: BodyTooLarge, before reading where the length is known; BadRequest if cut short;
          SlowBody.
        """
        if self.length is not None and self.length > limit_bytes:
            raise _too_large(limit_bytes, self.length)
        with self._watched(timeout_s):
            while chunk := self._next():
                if self._read > limit_bytes:
                    raise _too_large(limit_bytes, self._read)
                yield chunk
        if self._late:
            raise SlowBody(
                f"Only {self._read:,} bytes came in time. Send the photo over a faster connection, "
                "or a smaller copy.",
                received_bytes=self._read,
            )
        if self.length is not None and self._read < self.length:
            raise BadRequest(f"The body ended after {self._read} of {self.length} bytes.")

    @property
    def read_bytes(self) -> int:
        """The bytes that came so far, whatever the sender says of them."""
        return self._read

    def drain(self) -> None:
        """Read and drop what is left, within bounds."""
        try:
            with self._watched(DRAIN_S):
                while self._read < DRAIN_BYTES and self._next():
                    pass
        except BadRequest:
            self._ended = True  # the sender is gone

    def _next(self) -> bytes:
        if self._ended:
            return b""
        want = CHUNK_BYTES if self.length is None else min(CHUNK_BYTES, self.length - self._read)
        asked = time.perf_counter()
        self.began = self.began or asked
        try:
            chunk = self._stream.read(want) if want else b""
        except OSError as error:
            raise BadRequest("The body could not be read to its end.") from error
        self.read_s += time.perf_counter() - asked
        self._read += len(chunk)
        self._ended = not chunk
        return chunk

    @contextmanager
    def _watched(self, timeout_s: float) -> Iterator[None]:
        """Hang up on a sender who is slower than allowed: a read that blocks sees no clock."""
        hang_up = self._hang_up
        if self._ended or hang_up is None or timeout_s == math.inf:
            yield
            return
        with _watch().over(self, time.monotonic() + timeout_s):
            yield

    def hurry(self, end: float) -> None:
        """Hang up if *end* has passed, and a second more for each LEAST_BYTES_PER_S that came."""
        late = end + self._read / LEAST_BYTES_PER_S <= time.monotonic()
        if late and not self._late and self._hang_up:
            self._late = True
            self._hang_up()


class Watch:
    """Looks at the clock for all who read a body: starting a thread for each takes 1 ms of 5."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ends: dict[Body, float] = {}
        self._some = Event()
        Thread(target=self._run, daemon=True).start()

    @contextmanager
    def over(self, body: Body, end: float) -> Iterator[None]:
        """Have *body* hurry while it is read."""
        with self._lock:
            self._ends[body] = end
            self._some.set()
        try:
            yield
        finally:
            with self._lock:
                self._ends.pop(body, None)

    def _run(self) -> None:
        while self._some.wait():
            with self._lock:
                for body, end in self._ends.items():
                    body.hurry(end)
                if not self._ends:
                    self._some.clear()
            time.sleep(LOOK_S)


@functools.cache
def _watch() -> Watch:
    return Watch()


class Request(NamedTuple):
    """One HTTP request; header names in lower case.

    `boot_ms` is the time from the start of the process to the opening of its door. `answer` adds
    the rest: `id`, what the caller is told it by; `route`, the path of the entry of `routes` that
    serves it, "" where none does; `names`, what stood where it has {names}; `caller`, whose it is.
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
        paths.setdefault(_bare(path), {})[method] = handler
    return paths


def answer(routes: Table, request: Request) -> Response:
    """Answer *request*; whatever goes wrong becomes a problem document, never a traceback."""
    began = time.perf_counter()
    path, names = _find(routes, _bare(request.path))
    request_id = _request_id(request.headers.get("x-request-id", ""))
    request = request._replace(id=request_id, route=path, routes=routes, names=names)
    try:
        response = _routed(request)
    except Macule as error:
        if error.status == 500:
            log.error("%s: %s", error.title, error)
        response = problem(error, request_id)
    except Exception:
        log.exception("request %s failed", request_id)
        response = problem(Macule("Something went wrong on our side; the log has it."), request_id)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Length"] = str(len(response.body))
    try:
        response.headers["X-Memory-Band"] = budget.current().band()
        _share(request, response, settings.current().allowed_origins)
    except Macule:
        pass  # a setting that cannot be read has been answered above
    _tell(request, response, began)
    return response


def as_json(document: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Answer with JSON; header names are written with underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, {"Content-Type": "application/json", **names})


def problem(error: Macule, request_id: str) -> Response:
    """Write *error* as an RFC 9457 problem document."""
    response = as_json({**errors.document(error), "request_id": request_id}, error.status)
    response.headers["Content-Type"] = "application/problem+json"
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allow)
    return response._replace(facts={**error.figures, "slug": error.slug})


def _tell(request: Request, response: Response, began: float) -> None:
    """Hand all that is known of a request to `record`."""
    body, stages = request.body, dict(response.stages)
    if body.began is not None:
        waited_ms = stages.pop("wait", 0.0) + (body.began - began) * 1e3
        stages = {"wait": waited_ms, "read": body.read_s * 1e3, **stages}
    facts = {
        **response.facts,
        "id": request.id,
        "method": request.method,
        "route": request.route,
        "status": response.status,
        "ms": round((time.perf_counter() - began) * 1e3, 2),
        "bytes": body.read_bytes,
        "band": response.headers.get("X-Memory-Band"),
        "key": request.caller,
        "address": request.address,
    }
    record.answered(facts, stages, request.headers)


def _routed(request: Request) -> Response:
    """Call what serves the request's route."""
    settings.current()  # a setting that cannot be read fails every route alike, and says so
    if not request.route:
        raise NotFound(f"There is no {request.path[:80]} here.", routes=sorted(request.routes))
    methods = request.routes[request.route]
    method = "GET" if request.method == "HEAD" else request.method
    if method in methods:
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


def _bare(path: str) -> str:
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
    headers["Vary"] = "Origin"
    if origin not in allowed and not (origin and "*" in allowed):
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET")
        wanted = request.headers.get("access-control-request-headers", "")
        headers["Access-Control-Allow-Headers"] = wanted or "Content-Type"
        headers["Access-Control-Max-Age"] = "600"


def _too_large(limit_bytes: int, found_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request has {found_bytes:,} bytes or more; at most {limit_bytes:,} are read. Send a "
        "smaller copy of the image.",
        limit_bytes=limit_bytes,
    )
