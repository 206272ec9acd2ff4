"""The monitoring port of a queue worker: GET /metrics, and GET /health/ for a liveness probe.

One thread answers one connection at a time. A request must arrive within HEAD_TIMEOUT_S and have at
most MAX_HEAD_BYTES; its body is not read.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from threading import Thread

from macule.errors import BadSetting
from macule.http import application, routing
from macule.http.body import Body
from macule.http.messages import Exemptions, Request, Response, RouteTable
from macule.routes.metrics_endpoint import render

log = logging.getLogger("macule")

HEAD_TIMEOUT_S = 2.0
MAX_HEAD_BYTES = 8192
ACCEPT_RETRY_S = 0.1  # after accept() failed: too many files are open
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Fault = Callable[[], str]  # returns why a worker is not alive; "" while it is


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises: BadSetting, if it cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=16)
    except OSError as error:
        raise BadSetting(
            f"WORKER_METRICS_PORT={port} cannot be opened: {os.strerror(error.errno or 0)}. "
            "Each worker on a machine needs its own port."
        ) from error


def start(listener: socket.socket, fault: Fault) -> None:
    """Serve in a thread; /metrics needs a key if the service has keys."""
    routes = routing.build_table(
        {
            "GET /health/": lambda _: _health(fault()),
            "GET /metrics": lambda _: render({"macule_worker_alive": {(): not fault()}}),
        }
    )
    exemptions = routing.parse_exemptions(["GET /health/"], [])
    Thread(target=_serve, args=[listener, routes, exemptions], name="monitor", daemon=True).start()
    log.info("metrics are at port %d", listener.getsockname()[1])


def _health(fault: str) -> Response:
    text, status = fault or "ok", 503 if fault else 200
    return Response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


def _serve(listener: socket.socket, routes: RouteTable, exemptions: Exemptions) -> None:
    while True:
        try:
            connection, address = listener.accept()
        except OSError:
            time.sleep(ACCEPT_RETRY_S)
            continue
        with connection, suppress(OSError):
            head = _read_head(connection)
            connection.sendall(_respond(head, str(address[0]), routes, exemptions))


def _read_head(connection: socket.socket) -> bytes:
    """Read until an empty line, MAX_HEAD_BYTES or HEAD_TIMEOUT_S."""
    head, end = b"", time.monotonic() + HEAD_TIMEOUT_S
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES:
        connection.settimeout(max(0.001, end - time.monotonic()))
        piece = connection.recv(MAX_HEAD_BYTES)
        if not piece:
            break
        head += piece
    connection.settimeout(HEAD_TIMEOUT_S)
    return head


def _respond(head: bytes, address: str, routes: RouteTable, exemptions: Exemptions) -> bytes:
    """Return the response, as bytes, to a request's head."""
    first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    try:
        method, target, _ = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = {name.lower(): value.strip() for name, value in pairs}
    except ValueError:
        return BAD_REQUEST
    path, body = target.partition("?")[0], Body(BytesIO(), 0)
    request = Request(method, path, {}, headers, body, address=address)
    response = application.respond(routes, request, exemptions)
    phrase = HTTPStatus(response.status).phrase
    fields = {**response.headers, "Connection": "close"}
    rows = [f"HTTP/1.1 {response.status} {phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    content = b"" if method == "HEAD" else response.body
    return "\r\n".join([*rows, "", ""]).encode("latin-1") + content
