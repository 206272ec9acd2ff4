"""Receivers of webhooks on loopback: real servers whose answer depends on the path."""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.loopback import Handler, Loopback, serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the standard's own example


class Call(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class _Handler(Handler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        names = {name.lower(): value for name, value in self.headers.items()}
        self.server.calls.append(Call(self.path, names, body))
        way = self.path.strip("/").partition("?")[0]
        if way == "stalls":
            self.server.over.wait()
        elif way == "drips":
            while not self.server.over.wait(0.05):
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif way == "endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.over.wait(0.05):
                self.wfile.write(b"x" * 1000)
        else:
            turns = self.server.turns or [int(way or 204)]
            self.send_response(turns.pop(0))
            for name, value in self.server.says.items():
                self.send_header(name, value)
            self.end_headers()


class Receiver(Loopback):
    """Answers with the next of `turns`, else the status in the path, and headers it `says`."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(_Handler, port)
        self.calls: list[Call] = []
        self.turns: list[int] = []
        self.says: dict[str, str] = {}


@contextmanager
def receiver(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    with serving(Receiver(port), tls) as server:
        yield server


def database(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "jobs.sqlite3", timeout=5)
    connection.execute("PRAGMA journal_mode = wal")
    return connection
