"""An environment with only Python and pip, and what a platform starts in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from infra.checks.given import instructions
from support.lambda_runtime_api import unpack
from support.service import ROOT, Service, end

# pip's own settings and certificates, with which this machine reaches the registry.
NETWORK = re.compile(r"PIP_.*|SSL_CERT_.*|(https?|no)_proxy", re.IGNORECASE)
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'


class Bare:
    """A fresh clone and environment of *interpreter* in *folder*, created unless they exist.

    Without *cloned* the clone is an empty folder.
    """

    def __init__(
        self, folder: Path, interpreter: str = sys.executable, cloned: bool = True
    ) -> None:
        self.folder, self.clone, self.venv = folder, folder / "clone", folder / "venv"
        if self.clone.exists():
            return
        self.clone.mkdir()
        if cloned:
            clone(self.clone)
        subprocess.run([interpreter, "-m", "venv", str(self.venv)], check=True)
        (folder / "home").mkdir()
        (folder / "tmp").mkdir()

    def variables(self, template: Mapping[str, str]) -> dict[str, str]:
        """Return the template's variables, and those of any platform: PATH, HOME and TMPDIR."""
        return {
            "PATH": f"{self.venv}/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            **template,
        }

    def run(self, command: str, template: Mapping[str, str], cwd: Path | None = None) -> str:
        """Run a build command as written; pip may use the registry and its cache."""
        made = subprocess.run(
            [*hidden(), "sh", "-c", command],
            cwd=cwd or self.clone,
            env={**_network(), **self.variables(template)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def unpack(self, archives: Path, name: str, root: Path) -> Path:
        """Unpack a function of Lambda below *root*, with the runtime client for this Python."""
        client = f"awslambdaric=={version('awslambdaric')}"
        self.run(f"python -m pip install --quiet --target {root}/client {client}", {})
        return unpack(archives, name, root)

    @property
    def python(self) -> list[str]:
        return [*hidden(), str(self.venv / "bin/python")]

    @contextmanager
    def start(
        self, command: str, template: Mapping[str, str], cwd: Path | None = None
    ) -> Iterator[Service]:
        """Run a start command as written, with PORT; wait until it listens; end it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = self.folder / f"service-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*hidden(), "sh", "-c", command],
                cwd=cwd or self.clone,
                env=self.variables({**template, "PORT": str(port)}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Service(process, port, log)
        finally:
            end(process)


def first_answer(service: Service, body: bytes | None, wait_s: float = 60) -> tuple[int, float]:
    """Ask for a prediction until the service listens; return its status, and seconds since now.

    Without a *body* ask for the report of the health function.
    """
    method, path = ("POST", "/predict/") if body else ("GET", "/memory/")
    began = time.monotonic()
    while True:
        try:
            return service.call(method, path, body).status, time.monotonic() - began
        except OSError:
            spent_s = time.monotonic() - began
            assert service.process.poll() is None, service.log.read_text()
            assert spent_s < wait_s, service.log.read_text()
            time.sleep(0.005)


def blueprint(path: str, kind: str = "web") -> tuple[dict[str, Any], dict[str, str]]:
    """Return a service of a Render Blueprint, and its variables with a value."""
    document = yaml.safe_load((ROOT / path).read_text())
    (service,) = [each for each in document["services"] if each["type"] == kind]
    given = {item["key"]: item["value"] for item in service["envVars"] if "value" in item}
    return service, given


def container(path: str) -> dict[str, str]:
    """Return the variables that a service's template gives its container."""
    spec = yaml.safe_load((ROOT / path).read_text())["spec"]["template"]["spec"]
    return {item["name"]: item["value"] for item in spec["containers"][0]["env"] if "value" in item}


def image_command(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the command and the variables of the Dockerfile in *folder*."""
    given = dict(instructions((folder / "Dockerfile").read_text()))
    variables = dict(pair.split("=", 1) for pair in given["ENV"].split())
    return " ".join(json.loads(given["CMD"])), variables


def hidden() -> list[str]:
    """Return what hides this repository and its environments from a command, where allowed."""
    roots = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    hide = ["unshare", *roots, "sh", "-c", HIDE, str(ROOT)]
    if shutil.which("unshare") is None:
        return []
    return hide if subprocess.run([*hide, "true"], capture_output=True).returncode == 0 else []


def clone(folder: Path) -> None:
    """Copy into *folder* the tracked files and the untracked files that git does not ignore."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _network() -> dict[str, str]:
    cache = subprocess.check_output([sys.executable, "-m", "pip", "cache", "dir"], text=True)
    known = {"PIP_CACHE_DIR": cache.strip()}
    settled = Path.home() / ".config/pip/pip.conf"
    if settled.is_file():
        known["PIP_CONFIG_FILE"] = str(settled)
    return {
        **known,
        **{name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)},
    }
