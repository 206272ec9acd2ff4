"""Small HTTP servers on a free loopback port, which end with their test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Event, Thread
from typing import TypeVar

S = TypeVar("S", bound="Loopback")


class Handler(BaseHTTPRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


class Loopback(ThreadingTCPServer):
    """A server whose handlers may wait for `over`, which is set when the test ends."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, handler: Callable[..., object], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)  # type: ignore[arg-type]
        self.over = Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up, as the tests intend."""


@contextmanager
def serving(server: S, tls: ssl.SSLContext | None = None) -> Iterator[S]:
    """Run *server* in a thread, with TLS if *tls* is given."""
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
