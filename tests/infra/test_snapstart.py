"""SnapStart: the real zips in AWS's runtime client, which runs the hooks around a snapshot."""

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.images import photo
from support.lambda_events import event
from support.lambda_runtime_api import PLACES, Lambda, running, unpack

from infra import limits

CLIENTS = str(Path(redis.__file__).parent.parent)
SNAPSTART = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
# Appended to main.py: the state of `random` with which every copy of a snapshot starts.
SAME_STATE = """
import random
random.seed(7)
answer = handler

def handler(event, context):
    return {**answer(event, context), "random": random.random()}
"""


@pytest.fixture(scope="module")
def unpacked(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = unpack(bundles / "aws", "predict", tmp_path_factory.mktemp("snapstart"))
    shutil.rmtree(root / "task/__pycache__")
    with (root / "task/main.py").open("a") as main:
        main.write(SAME_STATE)
    return root


@contextmanager
def started(root: Path, log: Path, **variables: str) -> Iterator[Lambda]:
    memory_mb = limits.read().predict.memory_mb
    with running(root, memory_mb, log, **SNAPSTART, **variables) as function:
        yield function


def get(path: str) -> dict[str, Any]:
    asked = event("function-url")
    asked["requestContext"]["http"]["method"] = "GET"
    return {**asked, "rawPath": path, "body": "", "isBase64Encoded": False}


def test_the_model_is_in_the_snapshot(unpacked: Path, tmp_path: Path) -> None:
    """Before the snapshot the model is loaded and run once; the first photo finds it warm."""
    with started(unpacked, tmp_path / "log") as function:
        assert function.snapshot.wait(30)
        maps = Path(f"/proc/{function.process.pid}/maps").read_text()
        log = (tmp_path / "log").read_text()
        function.restore()
        warm = json.loads(function.invoke(event("schedule-v2"))["body"])
        answer = function.invoke(event("function-url", photo()))

    assert "model.tflite" in maps
    assert log.count('"event":"cold_start"') == 1
    assert warm["stages_ms"]["first"] > 0
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["metrics"]["cold_start"] is False
    assert (tmp_path / "log").read_text().count('"event":"cold_start"') == 1


def test_nothing_is_open_in_the_snapshot(unpacked: Path, tmp_path: Path) -> None:
    """With any settings the snapshot has no thread, connection or file, and no log line or span."""
    environment = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "BROKER_URL": "redis://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "DATA_DIR": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path),
        # after the zips, which contain neither redis nor OpenTelemetry
        "PYTHONPATH": ":".join([*(str(unpacked / place) for place in PLACES), CLIENTS]),
    }
    with started(unpacked, tmp_path / "log", **environment) as function:
        assert function.snapshot.wait(30)
        process = Path(f"/proc/{function.process.pid}")
        threads = re.findall(r"Threads:\s+(\d+)", (process / "status").read_text())
        open_now = [str(file.readlink()) for file in (process / "fd").iterdir()]
        written = {path.name for path in tmp_path.iterdir()}
        log = (tmp_path / "log").read_text()

    sockets = [name for name in open_now if name.startswith("socket:")]
    assert threads == ["1"]
    assert len(sockets) == 1  # the runtime client's own, which waits for the restore
    assert not [name for name in open_now if name.startswith(str(tmp_path / "data"))]
    assert written <= {"log", "data"}
    assert '"event":"request"' not in log


def test_copies_share_no_state(unpacked: Path, tmp_path: Path) -> None:
    """Two copies of a snapshot draw different random numbers and use different ids."""
    drawn, ids = set(), set()
    for copy in ("one", "other"):
        with started(unpacked, tmp_path / copy) as function:
            function.restore()
            answer = function.invoke(get("/health/"))
            drawn.add(answer["random"])
            ids.add(answer["headers"]["X-Request-Id"])
    with running(unpacked, 512, tmp_path / "plain") as function:
        plain = function.invoke(get("/health/"))["random"]

    assert len(drawn) == len(ids) == 2
    assert plain == random.Random(7).random()  # what both started with
    assert plain not in drawn


def test_the_clocks_start_at_the_restore(unpacked: Path, tmp_path: Path) -> None:
    """Metrics give the time of the restore as the start, and count only later requests."""
    with started(unpacked, tmp_path / "log") as function:
        assert function.snapshot.wait(30)
        restored_s = time.time()
        function.restore()
        function.invoke(get("/health/"))
        metrics = function.invoke(get("/metrics"))["body"]

    begun_s = float(re.findall(r"^process_start_time_seconds (\S+)", metrics, re.M)[0])
    counted = re.findall(r"^macule_requests_total\{.*route=\"(\S+?)\"", metrics, re.M)
    assert begun_s >= restored_s - 0.02  # it is rounded to 0.01
    assert counted == ["/health"]


def test_a_service_that_cannot_warm_up_is_not_copied(unpacked: Path, tmp_path: Path) -> None:
    """If the model does not load, the runtime reports why and ends, so no version is published."""
    card = (unpacked / "opt/python/macule/weights/model.json").read_text()
    (tmp_path / "model.json").write_text(card)
    (tmp_path / json.loads(card)["file"]).write_bytes(b"damaged")
    with started(unpacked, tmp_path / "log", MODEL_DIR=str(tmp_path)) as function:
        error = function.error()
        code = function.process.wait(30)

    assert error["errorType"] == "SnapshotFailed"
    assert "/warmup/ returned 503" in error["errorMessage"]
    assert code == 64


def test_without_snapstart_the_model_is_loaded_lazily(unpacked: Path, tmp_path: Path) -> None:
    """A normal start loads no model before the first request that needs one."""
    with running(unpacked, 512, tmp_path / "log") as function:
        function.invoke(get("/health/"))
        maps = Path(f"/proc/{function.process.pid}/maps").read_text()

    assert "model.tflite" not in maps


def test_the_runtime_reports_an_unknown_event(unpacked: Path, tmp_path: Path) -> None:
    """A queue's event ends in an error, so that its message is kept; the next event is answered."""
    with running(unpacked, 512, tmp_path / "log") as function:
        error = function.fail(event("sqs"))
        after = function.invoke(get("/health/"))

    assert error["errorType"] == "UnknownEvent"
    assert error["errorMessage"].startswith("The event is from aws:sqs: neither")
    assert after["statusCode"] == 200
