"""Lambda's Runtime API on loopback: it sends events to a function and receives its answers."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import awslambdaric

VERSION = "/2018-06-01/runtime"
# What the client also needs.
CLIENT = ("awslambdaric", "runtime_client*.so", "simplejson", "snapshot_restore_py.py")
PLACES = ("task", "opt/python", "client")  # where modules are found
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:macule"


class Lambda:
    """A running function: its events and its answers."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes]
        self.events: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.count = 0
        self.snapshot, self.resume = threading.Event(), threading.Event()

    def invoke(self, event: Mapping[str, Any], wait_s: float = 30) -> dict[str, Any]:
        """Send an event to the function; return its answer."""
        self.events.put(json.dumps(event).encode())
        return self._posted("response", wait_s)

    def fail(self, event: Any, wait_s: float = 30) -> dict[str, Any]:
        """Send an event to the function; return the error that it raises."""
        self.events.put(json.dumps(event).encode())
        return self._posted("error", wait_s)

    def error(self, wait_s: float = 30) -> dict[str, Any]:
        """Return the error with which the function ends before an event."""
        return self._posted("error", wait_s)

    def restore(self, wait_s: float = 30) -> None:
        """Continue as a copy of the snapshot, once the function is ready for it."""
        assert self.snapshot.wait(wait_s)
        self.resume.set()

    def _posted(self, expected: str, wait_s: float) -> dict[str, Any]:
        kind, body = self.answers.get(timeout=wait_s)
        assert kind == expected, body.decode()
        found: dict[str, Any] = json.loads(body)
        return found


def _handler(function: Lambda) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == f"{VERSION}/restore/next":
                function.snapshot.set()
                function.resume.wait()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            assert self.path == f"{VERSION}/invocation/next"
            event = function.events.get()
            function.count += 1
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", f"request-{function.count}")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 60) * 1000)))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(event)))
            self.end_headers()
            self.wfile.write(event)

        def do_POST(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            function.answers.put((self.path.rpartition("/")[2], body))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    return Api


def unpack(archives: Path, name: str, root: Path) -> Path:
    """Unpack a function's zips below *root* as Lambda does, with the client of Lambda's image.

    Only predict has the layer.
    """
    layers = ["layer.zip"] if name == "predict" else []
    for archive, place in zip([f"{name}.zip", *layers], ("task", "opt"), strict=False):
        with zipfile.ZipFile(archives / archive) as opened:
            opened.extractall(root / place)
    if (root / "client").is_dir():  # of another Python
        return root
    (root / "client").mkdir()
    for pattern in CLIENT:
        for path in Path(awslambdaric.__file__).parent.parent.glob(pattern):
            (root / "client" / path.name).symlink_to(path)
    return root


class Server(ThreadingHTTPServer):
    """A server that ignores killed clients."""

    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


@contextmanager
def running(
    root: Path,
    memory_mb: int,
    log: Path,
    within: Callable[[], None] | None = None,
    command: Sequence[str] = (sys.executable,),
    **variables: str,
) -> Iterator[Lambda]:
    """Start the runtime client with this Runtime API in an unpacked *root*; end both.

    It sees nothing else of this environment. *within* runs in the new process first: it may join a
    cgroup. With AWS_LAMBDA_INITIALIZATION_TYPE=snap-start the function waits for `restore`.
    """
    function = Lambda()
    api = Server(("127.0.0.1", 0), _handler(function))
    threading.Thread(target=api.serve_forever, daemon=True).start()
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "LAMBDA_TASK_ROOT": str(root / "task"),
        "PYTHONPATH": ":".join(str(root / place) for place in PLACES),
        **variables,
    }
    with log.open("wb") as output:
        function.process = subprocess.Popen(
            [*command, "-S", "-m", "awslambdaric", "main.handler"],
            cwd=root / "task",
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=within,
        )
    try:
        yield function
    finally:
        function.process.kill()  # as Lambda ends an environment
        function.process.wait()
        api.shutdown()
        api.server_close()
