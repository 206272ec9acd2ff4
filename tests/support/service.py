"""Real servers on a free loopback port, ended by their own pid."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")
# Found, not imported: it would take seconds in each process that collects the tests.
needs_tensorflow = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="could not import 'tensorflow': it is not installed"
)
ROOT = Path(__file__).resolve().parents[2]
GUNICORN = "make --no-print-directory serve PORT={port}"
# With all development packages, such as redis-py.
GUNICORN_DEV = ".venv-dev/bin/python -m infra.serve"
FRAMEWORK = (
    ".venv/bin/functions-framework --source functions/{name}/main.py --target {name} --port {port}"
)
# Its server reads a body in a decoding slot: one that does not arrive holds the slot.
READS_IN_SLOTS = FRAMEWORK.replace("{name}", "predict")


# First on the path of every service: importing numpy fails there.
WITHOUT_NUMPY = str(ROOT / "tests/support/service_path")
# The settings that tests of a service assume, independent of limits.toml.
SETTINGS = {
    "THREADS": "256",
    "GRACEFUL_TIMEOUT_S": "25",
    "MAX_IMAGE_BYTES": str(10 * 2**20),
    "MEMORY_BANDS": "0.3,0.7,0.88,0.98",
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request over *connection*, and close it."""
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


class Service:
    """One running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return ask(connection, method, path, body, headers)

    def predict(self, body: bytes, query: str = "", **headers: str) -> Answer:
        return self.call("POST", f"/predict/{query}", body, headers)


def retry_while_busy(ask: Callable[[], T], is_busy: Callable[[T], bool]) -> T:
    """Ask again, as clients do, while a slow machine is busy: a minute at most."""
    for _ in range(60):
        answer = ask()
        if not is_busy(answer):
            break
        time.sleep(1)
    return answer


@contextmanager
def running(
    command: str | list[str],
    folder: Path,
    cwd: Path = ROOT,
    ready_path: str = "/health/",
    port: int = 0,
    **environment: str,
) -> Iterator[Service]:
    """Start *command* with a free `{port}`, wait until *ready_path* answers, end it with SIGTERM.

    The words of a list may contain spaces.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    log = folder / f"service-{port}.log"
    words = command.split() if isinstance(command, str) else command
    with log.open("wb") as output:
        process = subprocess.Popen(
            [word.format(port=port) for word in words],
            cwd=cwd,
            env={
                **os.environ,
                **SETTINGS,
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "DATA_DIR": str(folder / "data"),  # no two tests share a queue
                "DRAIN_S": "0",  # there are no other clients
                "PYTHONPATH": WITHOUT_NUMPY,
                **environment,
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = Service(process, port, log)
    try:
        _wait(service, ready_path)
        yield service
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the group of *process* with SIGTERM, after 30 s with SIGKILL."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(service: Service, ready_path: str, wait_s: float = 60) -> None:
    """Wait until the service answers; fail with the end of its log."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end and service.process.poll() is None:
        try:
            if service.call("GET", ready_path).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the service did not start: {service.log.read_text()[-3000:]}")


def need(package: str, *programs: str) -> str:
    """Find one of *programs*; if there is none, fail in CI and skip elsewhere."""
    found = next(filter(None, map(shutil.which, programs)), None)
    if found:
        return found
    why = f"{programs[0]} is not installed: apt-get install {package}"
    return pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def until(happened: Callable[[], object], wait_s: float = 20) -> None:
    """Wait until *happened* returns true; fail after *wait_s*."""
    end = time.monotonic() + wait_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def form(field: str, body: bytes, name: str = "a.jpg") -> tuple[bytes, dict[str, str]]:
    """Write a multipart form of one file."""
    boundary = "tests-boundary"
    head = (
        f"--{boundary}\r\nContent-Disposition: form-data; "
        f'name="{field}"; filename="{name}"\r\nContent-Type: image/jpeg\r\n\r\n'
    ).encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return head + body + f"\r\n--{boundary}--\r\n".encode(), {"Content-Type": kind}
