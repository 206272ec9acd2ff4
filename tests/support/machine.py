"""A machine for the tests: systemd as process 1, in namespaces; needs root."""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.service import ROOT, Answer, ask, need, until

HERE = Path(__file__).parent
CGROUPS = Path("/sys/fs/cgroup")
NETWORK = 0x40000000  # CLONE_NEWNET
CERTIFICATE = "/etc/letsencrypt/live/macule.example"


class Machine:
    """A booted machine; `pid` is its process 1, as this machine numbers it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, command: str) -> str:
        """Run *command* there in a shell, as root in /opt/macule; return its output."""
        enter = ["nsenter", "--all", f"--target={self.pid}"]
        run = subprocess.run(
            [*enter, "sh", "-ec", f"cd /opt/macule\n{command}"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
        return run.stdout

    def log(self) -> str:
        """Return the output of all its services."""
        return self.run("cat /run/log")

    def connect(self, port: int, host: str = "127.0.0.1", source: str = "") -> socket.socket:
        """Connect to a port there. Only the connecting thread enters that network."""

        def inside() -> socket.socket:
            with open(f"/proc/{self.pid}/ns/net") as network:
                assert ctypes.CDLL(None).setns(network.fileno(), NETWORK) == 0
            return socket.create_connection((host, port), 60, (source, 0) if source else None)

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        port: int = 8080,
        host: str = "127.0.0.1",
        source: str = "",
    ) -> Answer:
        """Send one request to a port there; with TLS to 443, whose certificate is its own."""
        connection = http.client.HTTPConnection("macule.example", timeout=60)
        connection.sock = self.connect(port, host, source)
        if port == 443:
            trusting = ssl.create_default_context(
                cadata=self.run(f"cat {CERTIFICATE}/fullchain.pem")
            )
            connection.sock = trusting.wrap_socket(
                connection.sock, server_hostname="macule.example"
            )
        return ask(connection, method, path, body, headers)


@contextmanager
def booted(folder: Path, install: str) -> Iterator[Machine]:
    """Boot a machine with a fresh clone in /opt/macule, after running *install*."""
    if os.geteuid():
        pytest.skip("only root may boot a machine")
    need("systemd", "systemd-analyze")
    clone, name = folder / "clone", f"macule-test-{uuid.uuid4().hex[:8]}"
    copy(clone)
    command = ["sh", str(HERE / "machine.sh"), "install", str(clone), install]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with (folder / "boot").open("wb") as output:
        process = subprocess.Popen(
            ["sh", str(HERE / "machine.sh"), name, str(clone)], stdout=output, stderr=output
        )
    try:
        machine = Machine(_child(process, folder / "boot"))
        until(lambda: _is_up(machine), 60)
        yield machine
    finally:
        process.kill()  # and all its processes
        process.wait()
        until(lambda: all(map(_removed, [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")])))


def copy(clone: Path) -> None:
    """Copy what a commit of the working tree would contain."""
    listed = subprocess.check_output(["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)


def _child(process: subprocess.Popen[bytes], output: Path) -> int:
    """Wait for the child of `unshare`, which is process 1 there; return its pid here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def booting() -> str:
        assert process.poll() is None, output.read_text()
        with suppress(OSError, ValueError):  # the shell has other children before
            (child, *_) = children.read_text().split()
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return ""

    until(booting, 60)
    return int(booting())


def _is_up(machine: Machine) -> bool:
    with suppress(AssertionError):
        return machine.run("systemctl is-active basic.target").strip() == "active"
    return False


def _removed(folder: Path) -> bool:
    """Remove a cgroup and its children; they may be busy for a moment after their last process."""
    for inner in [*sorted(folder.rglob("*/"), reverse=True), folder]:
        with suppress(OSError):
            inner.rmdir()
    return not folder.exists()
