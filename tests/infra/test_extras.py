"""Extras of the table are in the bundles and work there without anything else."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from macule.registry import local, publish
from support.bare_environment import Bare, blueprint, first_answer
from support.broker import broker
from support.bundles import HERE
from support.dicom_files import dicom
from support.images import photo
from support.lambda_runtime_api import running as lambda_running
from support.model_sources import buckets
from support.otlp_collector import collector, endpoint
from support.service import ROOT, until

from infra import limits, pins, platforms

pytestmark = pytest.mark.slow
PHOTO = photo(600, 500)
EVENT = json.loads((ROOT / "tests/infra/events/function-url.json").read_text())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Build the bundles of a clone whose table has every extra."""
    made = Bare(tmp_path_factory.mktemp("extras"))
    table = made.clone / "infra/limits.toml"
    text, count = re.subn(r"(?m)^extras = .*", f"extras = {list(limits.EXTRAS)}", table.read_text())
    assert count == 1
    table.write_text(text)
    command = f"python -m infra.bundle render aws gcp --python python --machine {HERE}"
    (made.folder / "said").write_text(made.run(command, {}))
    return made


@pytest.fixture(scope="module")
def start() -> tuple[str, dict[str, str]]:
    service, given = blueprint("render.yaml")
    return service["startCommand"], given


def test_the_size_of_each_is_printed(bare: Bare) -> None:
    """A build prints what each extra adds, and the layer stays within Lambda's limit."""
    said = (bare.folder / "said").read_text()
    layer_mb = float(re.findall(r"aws/layer +([\d.]+) MB", said)[0])

    assert set(re.findall(r"^extra (\w+) +[\d.]+ MB", said, re.M)) == set(limits.EXTRAS)
    assert layer_mb < platforms.LAMBDA_UNZIPPED_MB


def test_google_installs_the_extras(bare: Bare) -> None:
    """Predict's requirements pin each package of the extras with hashes; health's pin none."""
    pinned = (bare.clone / "build/gcp/predict/requirements.txt").read_text()
    names = re.findall(r"^([\w.-]+)==", pinned, re.M)
    wanted = pins.read(limits.EXTRAS, limits.read().python_minor)

    assert set(wanted) <= set(names)
    assert len(set(names)) <= pinned.count("--hash=sha256:")
    assert "boto3" not in (bare.clone / "build/gcp/health/requirements.txt").read_text()


def test_services_share_a_cache_and_send_spans(
    bare: Bare, start: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """With redis and otel a second service answers from the first one's cache, and both trace."""
    command, given = start
    with broker(tmp_path) as server, collector() as there:
        settings = {**given, **endpoint(there), "REDIS_URL": server.url}
        with bare.start(command, settings) as one:
            assert first_answer(one, PHOTO)[0] == 200
        with bare.start(command, settings) as two:
            assert first_answer(two, PHOTO)[0] == 200
            hit = two.predict(PHOTO).json()
            until(lambda: [span.name for span in there.spans].count("POST /predict") >= 2)
        keys = server.client.keys("macule:1:answer:*")

    assert len(keys) == 1
    assert hit["metrics"]["cache"] == "hit"


def test_a_dicom_photo_is_read(bare: Bare, start: tuple[str, dict[str, str]]) -> None:
    """With dicom a DICOM photograph is classified."""
    with bare.start(*start) as service:
        assert first_answer(service, dicom())[0] == 200


@pytest.fixture(scope="module")
def upstream_stores() -> Iterator[dict[str, str]]:
    with buckets() as environment:
        yield environment


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_model_comes_from_a_bucket(
    bare: Bare,
    start: tuple[str, dict[str, str]],
    upstream_stores: dict[str, str],
    scheme: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With s3 and gs a service downloads its model with the pruned botocore."""
    command, given = start
    for name, value in upstream_stores.items():
        monkeypatch.setenv(name, value)
    target = f"{scheme}://models/lesions"
    publish.publish(local.DEFAULT_MODEL_DIR, target, "stable")

    settings = {**given, **upstream_stores, "MODEL_URI": f"{target}/stable"}
    with bare.start(command, settings) as service:
        assert first_answer(service, PHOTO)[0] == 200


def test_lambda_has_the_extras(bare: Bare, tmp_path: Path) -> None:
    """Under Lambda's runtime client redis and otel of the layer work."""
    root = bare.unpack(bare.clone / "build/aws", "predict", tmp_path)
    body = base64.b64encode(PHOTO).decode()

    def ask(**settings: str) -> dict[str, Any]:
        log, memory_mb = tmp_path / "log", limits.read().predict.memory_mb
        with lambda_running(root, memory_mb, log, command=bare.python, **settings) as function:
            answer = function.invoke({**EVENT, "body": body})
            until(lambda: "POST /predict" in [span.name for span in there.spans])
        assert answer["statusCode"] == 200, answer
        report: dict[str, Any] = json.loads(answer["body"])
        return report

    with broker(tmp_path) as server, collector() as there:
        asked = {**endpoint(there), "REDIS_URL": server.url}
        miss, hit = ask(**asked), ask(**asked)

    assert miss["metrics"]["cache"] == "miss"
    assert hit["metrics"]["cache"] == "hit"
