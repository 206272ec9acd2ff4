"""The image and compose.yaml without a Docker daemon: each step and command is run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.bare_environment import Bare, first_answer
from support.broker import broker
from support.images import photo
from support.service import ROOT

from infra.checks.given import instructions

PHOTO = photo(4032, 3024, quality=50)
HOME = "/opt/macule"
STEPS = instructions((ROOT / "Dockerfile").read_text())


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def arguments_of(word: str) -> str:
    """Return the arguments of the last of these instructions."""
    return dict(STEPS)[word]


@pytest.fixture(scope="module")
def image(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Run the Dockerfile's steps below a folder."""
    there = Bare(tmp_path_factory.mktemp("image"), cloned=False)
    context = there.folder / "context"
    shutil.copytree(ROOT / "requirements", context / "requirements")
    (context / "dist").mkdir()
    shutil.copy(wheel, context / "dist")
    for word, rest in STEPS:
        if word == "COPY" and not rest.startswith("--from"):
            for pattern in rest.split()[:-1]:
                for path in context.glob(pattern):
                    shutil.copy(path, there.clone)
        elif word == "RUN":  # pip may use its cache here
            command = rest.replace(HOME, str(there.folder / "opt")).replace("--no-cache-dir", "")
            there.run(command, {})
    return there


def variables(image: Bare, service: str, **more: str) -> dict[str, str]:
    """Return the variables of a container: the image's, then those of compose.yaml."""
    own = dict(pair.split("=", 1) for pair in arguments_of("ENV").split())
    path = own["PATH"].replace(HOME, str(image.folder / "opt")).replace("$PATH", os.environ["PATH"])
    return {**own, **compose()[service]["environment"], "PATH": path, **more}


@pytest.mark.slow
def test_web_process_and_worker_share_the_queue(image: Bare, tmp_path: Path) -> None:
    """The web process answers a photo, the worker a job; both pass their health checks."""
    commands = {
        "predict": json.loads(arguments_of("CMD")),
        "worker": compose()["worker"]["command"],
    }
    with broker(tmp_path) as server, ExitStack() as stack:
        shared = {"BROKER_URL": server.url, "HOST": "127.0.0.1"}
        web = variables(image, "predict", **shared)
        del web["PORT"]  # a free one
        running = stack.enter_context(image.start(" ".join(commands["predict"]), web, tmp_path))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        jobs = variables(image, "worker", **shared, WORKER_METRICS_PORT=port)
        stack.enter_context(
            image.start(" ".join(commands["worker"]), {**jobs, "PORT": port}, tmp_path)
        )
        answer, _ = first_answer(running, PHOTO)
        job = running.call("POST", "/predictions", PHOTO, {"Prefer": "wait=30"})
        web_check = json.loads(arguments_of("HEALTHCHECK").partition("CMD ")[2])
        worker_check = [
            word.replace("9100", port) for word in compose()["worker"]["healthcheck"]["test"][1:]
        ]
        checks = [
            subprocess.run(check, env=environment, capture_output=True, check=False).returncode
            for check, environment in (
                (web_check, {**web, "PORT": str(running.port)}),
                (worker_check, jobs),
                (web_check, {**web, "PORT": "1"}),
            )
        ]

    assert (answer, job.status, job.json()["status"]) == (200, 200, "succeeded")
    assert checks == [0, 0, 1]


def test_compose_matches_its_schema() -> None:
    """compose.yaml matches the published schema."""
    program = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"], check=True
    )


def test_the_context_has_only_the_wheel_and_pins() -> None:
    """.dockerignore allows what COPY names, and nothing else of a checkout."""
    lets_in = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for word, rest in STEPS
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }

    assert lets_in == copied
