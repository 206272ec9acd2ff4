"""Harmful model files: damaged, exchanged or malicious, before and while the service runs."""

import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from macule.registry import local
from support.images import photo
from support.load_clients import children
from support.service import GUNICORN, Service, running, until

ANEW = {"Cache-Control": "no-cache"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "weights"
    shutil.copytree(local.DEFAULT_MODEL_DIR, copy)
    return copy


@pytest.fixture
def service(folder: Path, tmp_path: Path) -> Iterator[Service]:
    """Run a service with its own temporary folder, whose model is *folder*."""
    with running(GUNICORN, tmp_path, MODEL_DIR=str(folder), TMPDIR=str(tmp_path)) as service:
        yield service


def install_file(folder: Path, content: bytes) -> str:
    """Put a file in place and write its digest to the card; return the digest."""
    (folder / "new").write_bytes(content)
    (folder / "new").replace(folder / "model.tflite")
    card = json.loads((folder / "model.json").read_text())
    card["sha256"] = sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(card))
    return str(card["sha256"])


def fuzz(content: bytes, seed: int) -> bytes:
    """Change some numbers in the network's description, which is the first hundredth."""
    rng, harmed = random.Random(seed), bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        place = rng.randrange(8, len(content) // 100) & ~3
        number = rng.choice([0, 1, 2**16, 2**20, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)])
        struct.pack_into("<I", harmed, place, number)
    return bytes(harmed)


def reload(service: Service) -> None:
    """Replace the worker by one that loads the present file."""
    (arbiter,) = children(service.process.pid)
    before = children(arbiter)
    os.kill(arbiter, signal.SIGHUP)
    until(lambda: children(arbiter) and not children(arbiter) & before, 60)


def statuses(service: Service) -> tuple[int, int]:
    """Request a prediction and health; 0 is a broken connection."""
    try:
        predicted = service.predict(photo(), **ANEW).status
    except (OSError, http.client.HTTPException):
        predicted = 0
    return predicted, service.call("GET", "/health/").status


def test_an_exchanged_model_serves_from_the_next_worker_on(service: Service, folder: Path) -> None:
    """Exchanging a valid file harms no answer; HUP loads it without a restart."""
    before = service.predict(photo()).json()["model"]
    content = bytearray((folder / "model.tflite").read_bytes())
    content[-1:] = b"\0\0\0\0"
    digest = install_file(folder, bytes(content))
    meanwhile = service.predict(photo(), **ANEW).json()["model"]
    reload(service)
    after = service.predict(photo(), **ANEW).json()["model"]

    assert meanwhile == before
    assert after["sha256"] == digest


@pytest.mark.parametrize("harm", ["removed", "unreadable"])
def test_a_deleted_file_continues_to_serve(service: Service, folder: Path, harm: str) -> None:
    """The worker has mapped the file and continues; the next one reports the error."""
    service.predict(photo())
    file = folder / "model.tflite"
    file.unlink()
    if harm == "unreadable":
        file.mkdir()
    meanwhile = service.predict(photo(), **ANEW).status
    reload(service)
    answer = service.predict(photo(), **ANEW)

    assert meanwhile == 200
    assert (answer.status, answer.json()["type"]) == (503, "urn:macule:problem:model-unavailable")
    assert service.call("GET", "/ready/").json()["state"] == "failed"
    assert service.call("GET", "/health/").status == 200


def test_a_file_truncated_while_it_serves_is_reported(service: Service, folder: Path) -> None:
    """Truncation may remove the worker's pages; the next worker reports the damage."""
    service.predict(photo())
    os.truncate(folder / "model.tflite", 4096)
    until(lambda: statuses(service)[0] in (200, 503))
    reload(service)
    answer = service.predict(photo(), **ANEW)

    assert answer.status == 503
    assert "sha256" in answer.json()["detail"]
    assert service.call("GET", "/health/").status == 200


@pytest.mark.slow
def test_fuzzed_models_never_end_the_service(service: Service, folder: Path) -> None:
    """Twelve damaged files with matching cards: health answers, and a good file is loaded."""
    good = (folder / "model.tflite").read_bytes()
    seen = set()
    for seed in range(12):
        install_file(folder, fuzz(good, seed))
        reload(service)
        predicted, health = statuses(service)
        seen.add(predicted)
        assert health == 200
    install_file(folder, good)
    reload(service)

    assert seen <= {0, 200, 503}
    assert 503 in seen
    assert service.predict(photo(), **ANEW).status == 200


def test_a_model_that_kills_workers_is_rejected(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    """After two crashes a file is rejected with the reason; another file is loaded."""
    good = (folder / "model.tflite").read_bytes()
    digest = install_file(folder, good + bytes(4))
    run = (
        "import os, sys, tempfile; from macule.registry import trial_run\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with trial_run.guard('/m.tflite', sys.argv[2]): os.abort()"
    )
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", run, tmp_path, digest], stderr=subprocess.DEVNULL, check=False
        )
    refused = service.predict(photo())
    ready, health = service.call("GET", "/ready/"), service.call("GET", "/health/")
    install_file(folder, good)
    time.sleep(0.1)

    assert refused.status == 503
    assert "ended 2 processes" in refused.json()["detail"]
    assert (ready.json()["state"], health.status) == ("failed", 200)
    assert service.predict(photo()).status == 200
