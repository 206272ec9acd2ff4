"""Clients that continue while a service is stopped, reloaded and killed, and count results."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.service import ROOT, Service

SERVE = [str(ROOT / ".venv/bin/python"), "-m", "infra.serve"]
TRIES = 20
LATE_S = 0.3  # until a load balancer notices; Kubernetes may take seconds


class Crowd:
    """Clients that send photos in turn, each on one connection as long as it is kept.

    `counts`: `ok`; `busy`, 503s with Retry-After; `retried`, requests that were answered after such
    a 503; `refused`, refused connections, which are retried after a moment; anything else is a
    failure, by its name. `came` has the start and end of each answered request.

    Args:
      port: returns the port to connect to now.
    """

    def __init__(self, port: Callable[[], int], photos: Sequence[bytes], clients: int = 8) -> None:
        self.counts: Counter[str] = Counter()
        self.came: list[tuple[float, float]] = []
        self._port, self._photos = port, photos
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._one, args=(n,)) for n in range(clients)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clients during the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def failures(self) -> dict[str, int]:
        """Return what was neither an answer nor a valid refusal."""
        known = ("ok", "busy", "retried", "refused")
        return {name: count for name, count in self.counts.items() if name not in known}

    def back_after(self, moment: float, wait_s: float = 30.0) -> float:
        """Wait for an answer to a request that started after *moment*; return its time."""
        while time.monotonic() < moment + wait_s:
            ends = [ended for began, ended in list(self.came) if began > moment]
            if ends:
                return min(ends) - moment
            time.sleep(0.005)
        raise AssertionError("nobody was answered any more")

    def _one(self, number: int) -> None:
        turn, connection = number, self._connection()
        while not self._over.is_set():
            turn += 1
            began, found, tries = time.monotonic(), "", 0
            while found not in ("ok", "given up") and tries < TRIES:
                tries += 1
                try:
                    found, wait_s = self._ask(connection, self._photos[turn % len(self._photos)])
                except ConnectionRefusedError:
                    found, wait_s = "refused", 0.05
                except (OSError, http.client.HTTPException) as error:
                    self.counts[type(error).__name__] += 1
                    found, wait_s = "given up", 0.0
                if found in ("busy", "refused"):
                    self.counts[found] += 1
                    connection.close()
                    connection = self._connection()
                    time.sleep(wait_s)
            if found == "ok":
                self.came.append((began, time.monotonic()))
                self.counts.update(["ok", "retried"] if tries > 1 else ["ok"])
            else:
                connection.close()
                connection = self._connection()
                self.counts.update([] if found == "given up" else ["never answered"])
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port(), timeout=30)

    def _ask(self, connection: http.client.HTTPConnection, photo: bytes) -> tuple[str, float]:
        if connection.sock is None:
            connection.port = self._port()
        headers = {"Content-Type": "image/jpeg", "Cache-Control": "no-cache"}
        connection.request("POST", "/predict/", photo, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            return "ok", 0.0
        if answer.status == 503 and answer.headers["Retry-After"]:
            return "busy", float(answer.headers["Retry-After"])
        raise http.client.HTTPException(f"status {answer.status}")


def children(pid: int) -> set[int]:
    """Return the pids of a process's children; none if it has ended."""
    with suppress(psutil.Error):
        return {child.pid for child in psutil.Process(pid).children()}
    return set()


def workers(service: Service) -> set[int]:
    """Return the pids of gunicorn's workers; its arbiter is the only child of make."""
    return {pid for arbiter in children(service.process.pid) for pid in children(arbiter)}


def start(port: int, log: Path, listener: socket.socket | None = None) -> subprocess.Popen[bytes]:
    """Start a service; *listener*, if given, is passed to it, as systemd does."""
    command = SERVE
    if listener:
        passed = f"exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec {' '.join(SERVE)}"
        command = ["bash", "-c", passed]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "DRAIN_S": "1"},
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()] if listener else [],
            start_new_session=True,
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def warm(port: int, wait_s: float = 30.0) -> None:
    """Wait until the service at *port* has its model."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/warmup/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise AssertionError("the service did not start")


class Place:
    """The present address of the service, and how the next one replaces it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.port = free_port()
        self.process = start(self.port, log)
        warm(self.port)

    def overlap(self) -> None:
        """Worst case of a cloud: end the old service, and then send clients to the next."""
        port, before = free_port(), self.process
        self.process = start(port, self._log)
        warm(port)
        before.terminate()
        time.sleep(LATE_S)
        self.port = port
        before.wait(30)

    def same_port(self) -> None:
        """Plain supervisor: end the old service, then start the next at the same port."""
        self.process.terminate()
        self.process.wait(30)
        self.process = start(self.port, self._log)
        warm(self.port)

    def workers(self) -> set[int]:
        return children(self.process.pid)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Passed(Place):
    """Like systemd: the supervisor keeps the socket, so clients wait in its queue."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.set_inheritable(True)
        self.port = int(self._listener.getsockname()[1])
        self.process = start(self.port, log, self._listener)
        warm(self.port)

    def same_port(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.process = start(self.port, self._log, self._listener)
        warm(self.port)

    def close(self) -> None:
        super().close()
        self._listener.close()
