"""Bundles run on their platform: each command as written, with Python and pip alone.

Every service starts from a fresh clone in its own environment, has only its template's variables,
and gets a photo of 12 MP.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.bare_environment import Bare, blueprint, container, first_answer, hidden, image_command
from support.broker import broker
from support.bundles import HERE
from support.images import photo
from support.lambda_runtime_api import running as lambda_running
from support.service import ROOT

from infra import limits

pytestmark = pytest.mark.slow
TABLE = limits.read()
EVENTS = Path(__file__).parent / "events"
PHOTO = photo(4032, 3024, quality=50)  # below a body_mb of 1


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare"))


def test_the_environment_is_bare(bare: Bare) -> None:
    """The environment has only pip; this repository is hidden where possible."""
    listed = bare.run("python -m pip list --format json", {})
    seen = bare.run(f"ls -A {ROOT}", {}) if hidden() else ""

    assert {package["name"] for package in json.loads(listed)} <= {"pip", "setuptools"}
    assert seen == ""


def test_render_builds_and_starts(bare: Bare) -> None:
    """The Blueprint's build command builds what its start command serves."""
    service, given = blueprint("render.yaml")
    bare.run(service["buildCommand"], given)

    with bare.start(service["startCommand"], given) as running:
        assert first_answer(running, PHOTO)[0] == 200
        assert running.call("GET", service["healthCheckPath"]).status == 200


def test_renders_queue_builds_and_starts(bare: Bare, tmp_path: Path) -> None:
    """Web service and worker of the queue's Blueprint start from one build and share a queue."""
    web, given = blueprint("infra/render/queue.yaml")
    worker, of_worker = blueprint("infra/render/queue.yaml", "worker")
    assert worker["buildCommand"] == web["buildCommand"]
    bare.run(web["buildCommand"], given)

    with broker(tmp_path) as store, ExitStack() as stack:
        queue = {"BROKER_URL": store.url}
        stack.enter_context(bare.start(worker["startCommand"], {**of_worker, **queue}))
        running = stack.enter_context(bare.start(web["startCommand"], {**given, **queue}))
        assert first_answer(running, PHOTO)[0] == 200
        answer = running.call("POST", "/predictions", PHOTO, {"Prefer": "wait=30"})

    assert (answer.status, answer.json()["status"]) == (200, "succeeded")


@pytest.fixture(scope="session")
def built(bare: Bare) -> Iterator[Path]:
    """Build what `make bundle` builds for the clouds."""
    bare.run(f"python -m infra.bundle gcp aws knative --python python --machine {HERE}", {})
    return bare.clone / "build"


@pytest.mark.parametrize("name", ["predict", "health"])
def test_an_image_starts(bare: Bare, built: Path, name: str) -> None:
    """A Dockerfile's command starts what the Dockerfile copies, with the pod's variables."""
    folder = built / "knative" / name
    command, given = image_command(folder)
    given |= container(f"infra/knative/{name}.yaml")

    with bare.start(command, given, folder) as running:
        assert first_answer(running, PHOTO)[0] == (200 if name == "predict" else 404)
        assert running.call("GET", "/health/").status == 200


@pytest.mark.parametrize("name", ["predict", "health"])
def test_google_installs_and_starts(
    built: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Google's buildpack installs requirements.txt beside main.py and starts the framework."""
    there = Bare(tmp_path_factory.mktemp("google"))
    folder = built / "gcp" / name
    there.run("python -m pip install --quiet -r requirements.txt", {}, folder)
    given = {**container(f"infra/gcp/{name}.yaml"), "FUNCTION_TARGET": name}

    with there.start("functions-framework --source main.py", given, folder) as running:
        assert first_answer(running, PHOTO)[0] == (200 if name == "predict" else 404)
        assert running.call("GET", "/health/").status == 200


@pytest.mark.parametrize("name", ["predict", "health"])
def test_lambda_starts(bare: Bare, built: Path, tmp_path: Path, name: str) -> None:
    """The zips answer under Lambda's runtime client, which Lambda's image contains."""
    root = bare.unpack(built / "aws", name, tmp_path)
    memory_mb = TABLE.of(name).memory_mb
    asked = json.loads((EVENTS / "function-url.json").read_text())

    with lambda_running(root, memory_mb, tmp_path / "log", command=bare.python) as function:
        answer = function.invoke({**asked, "body": base64.b64encode(PHOTO).decode()})

    assert answer["statusCode"] == (200 if name == "predict" else 404)
