"""Misbehaving services on loopback, each under its own path."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler

from support.loopback import Loopback, serving

REPORT = {"status": "ok", "band": "idle", "model_loaded": False, "memory": {"percent": 3.5}}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Upstream(Loopback):
    """Answers by the first part of the path; `asked` has the request lines."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.asked: list[str] = []

    def paths(self, since: int) -> list[str]:
        """Return the paths requested since the given number of requests, of known behaviours.

        Another program had this port a moment ago, and its clients may still call.
        """
        paths = [line.split()[1] for line in self.asked[since:] if line.startswith("GET /")]
        return [path for path in paths if path.split("/")[1] in WAYS]


class _Handler(StreamRequestHandler):
    server: Upstream

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(line)
        way = line.split()[1].split("/")[1]
        if way.startswith("deep-"):
            depth = int(way.removeprefix("deep-"))
            self.json('{"band": ' + "[" * depth + "]" * depth + "}")
        else:
            WAYS[way](self)

    def say(self, *parts: bytes, every_s: float = 0.0) -> None:
        for part in parts:
            self.wfile.write(part)
            self.server.over.wait(every_s)

    def json(self, text: str, status: str = "200 OK") -> None:
        body = text.encode("utf-8")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self.say(head + body)

    def drip(self, head: bytes, part: bytes) -> None:
        self.say(head)
        while not self.server.over.is_set():
            self.say(part, every_s=0.05)

    def redirect(self) -> None:
        self.say(b"HTTP/1.1 302 Found\r\nLocation: /fine/memory/\r\nContent-Length: 0\r\n\r\n")


WAYS: dict[str, Callable[[_Handler], object]] = {
    "fine": lambda handler: handler.json(json.dumps(REPORT)),
    "stalls": lambda handler: handler.server.over.wait(),
    "drips": lambda handler: handler.drip(HEAD + b"Content-Length: 9999\r\n\r\n", b" "),
    "drips-headers": lambda handler: handler.drip(HEAD, b"X-More: 1\r\n"),
    "drips-continue": lambda handler: handler.drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "redirects": lambda handler: handler.redirect(),
    "busy": lambda handler: handler.json("{}", "503 Service Unavailable"),
    "html": lambda handler: handler.json("<html>hello"),
    "huge": lambda handler: handler.json(" " * 10_000_000 + "{}"),
    "steers": lambda handler: handler.say(b"HTTP/1.1 302 Found\r\nLocation: \x1b[2J\r\n\r\n"),
    "closes": lambda _: None,
    "noise": lambda handler: handler.say(b"\0\1\2 what is this?\r\n\r\n"),
    "list": lambda handler: handler.json("[]"),
    "error": lambda handler: handler.json('{"error": 7}'),
    "infinity": lambda handler: handler.json('{"band": 1e999}'),
    "surrogate": lambda handler: handler.json('{"band": "\\ud800"}'),
    "script": lambda handler: handler.json(
        json.dumps({"band": "<script>alert(1)</script>" * 9, "status": ["?"], "peak_mb": 10**400})
    ),
}


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Run one on a free port."""
    with serving(Upstream()) as server:
        yield server


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
