"""The port of a worker that is watched: GET /metrics, and GET /health/ for a liveness probe.

One thread answers one connection after the other. A request has HEAD_S to come and is at most
MOST_HEAD_BYTES long; its body is not read.
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
from macule.http import application, messages, routing
from macule.http.body import Body
from macule.http.messages import Request, Response
from macule.routes import metrics_endpoint

log = logging.getLogger("macule")

HEAD_S = 2.0
MOST_HEAD_BYTES = 8192
PAUSE_S = 0.1  # where no connection can be accepted: too many files are open
UNREADABLE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Fault = Callable[[], str]  # why a worker is not alive; "" while it is


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises: BadSetting, where it cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=16)
    except OSError as error:
        raise BadSetting(
            f"WORKER_METRICS_PORT={port} cannot be opened: {os.strerror(error.errno or 0)}. "
            "Each worker of a machine needs a port of its own."
        ) from error


def start(listener: socket.socket, fault: Fault) -> None:
    """Answer from now on, in a thread; what needs a key on a web process needs it here."""
    routes = routing.table(
        {
            "GET /health/": lambda _: _health(fault()),
            "GET /metrics": lambda _: metrics_endpoint.render(
                {"macule_worker_alive": {(): not fault()}}
            ),
        }
    )
    free = routing.exempt(["GET /health/"], [])
    Thread(target=_serve, args=[listener, routes, free], name="monitor", daemon=True).start()
    log.info("metrics are at port %d", listener.getsockname()[1])


def _health(fault: str) -> Response:
    text, status = fault or "ok", 503 if fault else 200
    return Response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


def _serve(listener: socket.socket, routes: messages.Table, free: messages.Exempt) -> None:
    while True:
        try:
            connection, address = listener.accept()
        except OSError:
            time.sleep(PAUSE_S)
            continue
        with connection, suppress(OSError):
            connection.sendall(_answered(_head(connection), str(address[0]), routes, free))


def _head(connection: socket.socket) -> bytes:
    """Read what comes until an empty line; what is too long or late is broken off."""
    head, end = b"", time.monotonic() + HEAD_S
    while b"\r\n\r\n" not in head and len(head) <= MOST_HEAD_BYTES:
        connection.settimeout(max(0.001, end - time.monotonic()))
        piece = connection.recv(MOST_HEAD_BYTES)
        if not piece:
            break
        head += piece
    connection.settimeout(HEAD_S)
    return head


def _answered(head: bytes, address: str, routes: messages.Table, free: messages.Exempt) -> bytes:
    """Answer a request by its head."""
    first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    try:
        method, target, _ = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = {name.lower(): value.strip() for name, value in pairs}
    except ValueError:
        return UNREADABLE
    path = target.partition("?")[0]
    body = Body(BytesIO(), 0)
    request = Request(method, path, {}, headers, body, address=address)
    response = application.answer(routes, request, free)
    phrase = HTTPStatus(response.status).phrase
    fields = {**response.headers, "Connection": "close"}
    rows = [f"HTTP/1.1 {response.status} {phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    sent = b"" if method == "HEAD" else response.body
    return "\r\n".join([*rows, "", ""]).encode("latin-1") + sent
