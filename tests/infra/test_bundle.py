"""Each bundle starts without changes, answers, and is reproducible."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pillow_heif
import psutil
import pytest
from support.broker import broker
from support.bundles import bundle
from support.colour_images import PROFILES
from support.images import photo, saved, skin
from support.lambda_events import event
from support.lambda_runtime_api import Lambda, unpack
from support.lambda_runtime_api import running as lambda_running
from support.load_clients import children
from support.mutants import changed
from support.service import FRAMEWORK, ROOT, running

from infra import limits, platforms
from infra.bundle import Target, build

# Only the bundle and the standard library: -S excludes this environment's packages.
BARE = f"{sys.executable} -S -m"
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "jpeg"}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("MPO", {"save_all": True}),
    ("AVIF", {"speed": 10}),
    ("HEIF", {}),
    ("JPEG2000", {}),
    ("ICO", {}),
    ("JPEG", {"icc_profile": PROFILES["Display P3"]}),
]


@pytest.mark.slow
def test_two_builds_are_identical(bundles: Path, tmp_path: Path) -> None:
    """Every file and both kinds of zip have the same bytes in a second build."""
    again = bundle(tmp_path)

    assert again == (bundles / "said").read_text()
    for listed in bundles.rglob("*.cdx.json"):
        assert listed.read_bytes() == (tmp_path / listed.relative_to(bundles)).read_bytes()
    for archive in bundles.glob("aws/*.zip"):
        assert archive.read_bytes() == (tmp_path / "aws" / archive.name).read_bytes()


def test_no_build_path_is_included(bundles: Path) -> None:
    """No file or byte-code contains the path of the machine that built it."""
    paths = {str(ROOT).encode(), str(bundles).encode()}
    found = [
        str(path.relative_to(bundles))
        for path in bundles.rglob("*.py*")
        if any(name in path.read_bytes() for name in paths)
    ]

    assert found == []


def test_health_bundles_are_small(bundles: Path) -> None:
    """The health function has no numpy, runtime or weights on any platform."""
    for name in ("gcp/health", "aws/health", "knative/health"):
        held = {path.name.lower() for path in (bundles / name).rglob("*")}

        assert not held & {"numpy", "pil", "ai_edge_litert", "weights", "model.tflite"}
        assert sum(path.stat().st_size for path in (bundles / name).rglob("*")) < 5 * 2**20
    pins = (bundles / "gcp/health/requirements.txt").read_text()
    assert not re.search(r"^(numpy|pillow|ai-edge-litert)==", pins, re.M)


def test_no_bundle_has_the_tools(bundles: Path) -> None:
    """Bundles exclude converter and trainer, and the command does not offer them."""
    held = {path.relative_to(bundles) for path in bundles.rglob("macule/*")}
    done = subprocess.run(
        [*f"{BARE} macule.cli convert mine.keras".split()],
        cwd=bundles / "render/predict",
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(held) > 100
    assert not {path.name for path in held} & {"convert", "train"}
    assert done.returncode == 2
    assert "unknown command 'convert'" in done.stderr


def test_google_gets_the_tables_python(bundles: Path) -> None:
    """Both source folders name the Python version for Google's buildpacks."""
    for name in ("predict", "health"):
        version = (bundles / f"gcp/{name}/.python-version").read_text()

        assert version.strip() == limits.read().python_minor


def test_a_layer_above_its_limit_is_rejected(bundles: Path, tmp_path: Path) -> None:
    """A layer above its limit is an error that gives the size."""
    from infra.bundle import LAYER_MOST_MB, TREES, measure

    (tmp_path / "layer").mkdir()
    with (tmp_path / "layer/large").open("wb") as file:
        file.truncate((LAYER_MOST_MB + 1) * 2**20)

    with pytest.raises(ValueError, match=rf"the layer has {LAYER_MOST_MB + 1}\.0 MB"):
        measure("aws/layer", tmp_path / "layer", TREES["aws/layer"], ())


ELF_MACHINES = {b"\x3e\x00": "x86_64", b"\xb7\x00": "arm64"}


@pytest.mark.slow
def test_libraries_match_each_platforms_architecture(tmp_path: Path) -> None:
    """With arm64, Lambda and Knative get its libraries; Render does not offer it.

    All are for the table's Python, which need not be installed here.
    """
    table = changed({"architecture": "arm64", "predict.extras": ["dicom"]})
    names = ["render/predict", "aws/layer", "knative/predict"]
    list(build(tmp_path, names, Target("3.14"), table))

    for name in names:
        libraries = list((tmp_path / name).rglob("*.so*"))
        machines = {ELF_MACHINES[path.read_bytes()[18:20]] for path in libraries}
        assert machines == {platforms.architecture(name.split("/")[0], "arm64")}, name
        tags = {tag for path in libraries for tag in re.findall(r"cpython-(3\d+)", path.name)}
        assert tags == {"314"}
        assert not list((tmp_path / name).rglob("*.pyc"))
    assert platforms.architecture("render", "arm64") == "x86_64"
    assert platforms.architecture("aws", "arm64") == "arm64"


@pytest.fixture(scope="module")
def gunicorn(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    command = f"{BARE} infra.serve"
    with running(command, tmp_path_factory.mktemp("log"), bundles / "render/predict") as service:
        yield service


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_the_render_bundle_reads_every_format(
    gunicorn: Any, kind: str, options: dict[str, Any]
) -> None:
    """After pruning, each supported format is still decoded, with its map."""
    pillow_heif.register_heif_opener()
    answer = gunicorn.predict(saved(skin(), kind, **options), "?explain=cam")

    assert answer.status == 200, answer.body
    assert answer.json()["explanation"]


def test_the_render_bundle_takes_forms_and_reports_its_memory(gunicorn: Any) -> None:
    """The other routes and upload formats also work after pruning."""
    assert gunicorn.call("GET", "/warmup/").status == 200
    assert gunicorn.call("GET", "/memory/").json()["model_loaded"] is True
    assert gunicorn.predict(b"no image").status == 415


@pytest.mark.parametrize("name", ["knative/predict", "knative/health"])
def test_the_images_bundle_starts(bundles: Path, tmp_path: Path, name: str) -> None:
    """What a Dockerfile copies starts with that file's command and environment."""
    root = bundles / name
    dockerfile = (root / "Dockerfile").read_text()
    words = json.loads(dockerfile.rpartition("CMD ")[2])
    environment = dict(
        pair.split("=", 1) for pair in re.findall(r"^ENV (.*)", dockerfile, re.M)[0].split()
    )
    command = " ".join([sys.executable, "-S", *words[1:]])

    with running(command, tmp_path, root, **environment) as service:
        assert service.call("GET", "/memory/").status == 200
        expected = 200 if name.endswith("predict") else 404
        assert service.predict(photo()).status == expected


@pytest.mark.parametrize("name", ["predict", "health"])
def test_functions_framework_starts_the_google_bundle(
    bundles: Path, tmp_path: Path, name: str
) -> None:
    """functions-framework serves the uploaded folder, which contains the model."""
    root = bundles / "gcp" / name
    command = FRAMEWORK.replace("functions/{name}/main.py", str(root / "main.py"))
    command = command.replace(".venv", str(ROOT / ".venv")).replace("{name}", name)

    with running(command, tmp_path, root, PYTHONPATH=str(root), THREADS="8") as service:
        if name == "predict":
            assert service.predict(photo()).status == 200
            mapped = psutil.Process(min(children(service.process.pid))).memory_maps()
            assert str(root / "macule/weights/model.tflite") in {one.path for one in mapped}
        else:
            assert service.call("GET", "/memory/").json()["model_loaded"] is False


@pytest.fixture(scope="module", params=["predict", "health"])
def function(
    request: pytest.FixtureRequest,
    bundles: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Lambda]]:
    """Run a function of the unpacked zips under the runtime client, at its own memory limit."""
    name, root = request.param, tmp_path_factory.mktemp("lambda")
    unpacked = unpack(bundles / "aws", name, root)
    with lambda_running(unpacked, limits.read().of(name).memory_mb, root / "log") as function:
        yield name, function


@pytest.mark.parametrize(
    "source",
    ["function-url", "http-api-2", "http-api-1", "rest-api", "rest-api-domain", "alb", "alb-lists"],
)
def test_the_zips_answer_every_event_source(function: tuple[str, Lambda], source: str) -> None:
    """A photo by function URL, both API versions and a load balancer gets an answer with labels."""
    name, run = function
    answer = run.invoke(event(source, photo()))

    assert answer["statusCode"] == (200 if name == "predict" else 404)
    if name == "predict":
        assert len(json.loads(answer["body"])["predictions"]) == 2
    assert ("multiValueHeaders" in answer) is (source == "alb-lists")
    assert ("headers" in answer) is (source != "alb-lists")


@pytest.mark.parametrize("source", ["schedule-v2", "eventbridge"])
def test_the_zips_handle_a_schedule(function: tuple[str, Lambda], source: str) -> None:
    """A schedule's event warms predict and reports the time; health has no model."""
    name, run = function
    first, second = (run.invoke(event(source)) for _ in range(2))

    assert first["statusCode"] == second["statusCode"] == (200 if name == "predict" else 404)
    assert first["body"] == second["body"] or name == "health"
    if name == "predict":
        assert json.loads(first["body"])["cold_start_ms"] > 0


@pytest.mark.parametrize("function", ["predict"], indirect=True)
def test_a_phone_photo_fits_the_smallest_function(function: tuple[str, Lambda]) -> None:
    """A 12 MP photo is answered within Lambda's smallest memory."""
    _, run = function
    answer = run.invoke(event("function-url", photo(4032, 3024)))
    status = Path(f"/proc/{run.process.pid}/status").read_text()

    assert answer["statusCode"] == 200
    assert int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) < 128 * 1024


def test_the_queue_bundle_runs_predictions(bundles: Path, tmp_path: Path) -> None:
    """Web process and worker of Render's queue start from their bundle alone, and predict."""
    folder = bundles / "render-queue/predict"
    web = f"{BARE} infra.serve"
    with broker(tmp_path) as server, ExitStack() as stack:
        environment = {"BROKER_URL": server.url}
        service = stack.enter_context(running(web, tmp_path, folder, **environment))
        worker = subprocess.Popen(
            [*f"{BARE} macule.cli".split(), "worker"],
            cwd=folder,
            env={**os.environ, **environment},
        )
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
        answer = service.call("POST", "/predictions?top_k=1", photo(), {"Prefer": "wait=30"})

    assert (answer.status, answer.json()["status"]) == (200, "succeeded")
