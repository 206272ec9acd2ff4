"""Sources of models: a web server that misbehaves on request, and real buckets."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from macule.registry import local, model_card

from support import loopback

Turn = Callable[["Handler", bytes], None]


class Handler(loopback.Handler):
    """Answers with a file, unless a misbehaviour is next in turn for its path."""

    server: Web

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        turns = self.server.turns.get(path, [])
        content = self.server.files.get(path)
        if turns:
            turns.pop(0)(self, content or b"")
        elif content is None:
            self.send_error(404)
        else:
            self.head(len(content))
            self.wfile.write(content)

    def head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()


class Web(loopback.Loopback):
    """`files` by path, misbehaving `turns` by path, and the paths that were `asked` for."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.files: dict[str, bytes] = {}
        self.turns: dict[str, list[Turn]] = {}
        self.asked: list[str] = []

    def hold(self, folder: str | Path, path: str) -> None:
        """Serve the model in *folder* below *path*."""
        for file in (local.find(str(folder)).path, Path(folder) / model_card.FILE):
            self.files[f"{path}/{Path(file).name}"] = Path(file).read_bytes()


def certify(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Create a self-signed certificate of this machine, and a context that serves with it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "macule's tests")])
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(1))
        .not_valid_after(today + timedelta(1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return pem, context


@contextmanager
def web(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    with loopback.serving(Web(), tls) as server:
        yield server


def stall(handler: Handler, content: bytes) -> None:
    """Send a half, then nothing."""
    handler.head(len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.server.over.wait(20)


def drip(handler: Handler, content: bytes) -> None:
    """Send a byte now and then, so that no read waits long."""
    handler.head(len(content))
    while not handler.server.over.wait(0.1):
        handler.wfile.write(b"x")


def cut(handler: Handler, content: bytes) -> None:
    """Close in the middle."""
    handler.head(len(content))
    handler.wfile.write(content[: len(content) // 2])


def announce_terabyte(handler: Handler, content: bytes) -> None:
    """Announce a terabyte."""
    handler.head(2**40)
    handler.wfile.write(content)


def status(code: int) -> Turn:
    return lambda handler, _: handler.send_error(code)


def redirect(to: str) -> Turn:
    def turn(handler: Handler, _: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return turn


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run one of the environment's programs as a server, until the block ends."""
    program = Path(sys.executable).parent / command[0]
    process = subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < end, f"{command[0]} does not answer"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    """Request anything: a mere connection could be to itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def buckets() -> Iterator[dict[str, str]]:
    """Run S3 (moto) and Cloud Storage (its emulator), each with the bucket `models`.

    Yields: the environment of their clients.
    """
    s3, gs = free_port(), free_port()
    emulator = f"start --host 127.0.0.1 --port {gs} --in-memory --default-bucket models"
    with (
        running(["moto_server", "-H", "127.0.0.1", "-p", str(s3)], s3),
        running(["gcp-storage-emulator", *emulator.split()], gs),
    ):
        make = urllib.request.Request(f"http://127.0.0.1:{s3}/models", method="PUT")
        urllib.request.urlopen(make, timeout=10).close()
        yield {
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gs}",
        }


def named(folder: Path, name: str) -> str:
    """Create a model folder with another name in its card."""
    os.makedirs(folder)
    card = json.loads((Path(local.DEFAULT_MODEL_DIR) / model_card.FILE).read_text())
    shutil.copy(local.find(local.DEFAULT_MODEL_DIR).path, folder)
    (folder / model_card.FILE).write_text(json.dumps({**card, "name": name}))
    return str(folder)
