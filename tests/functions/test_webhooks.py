"""Webhooks of the running service: both events, signed, delivered after a kill, not blocking."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.images import photo
from support.service import GUNICORN, ROOT, Service, running, until
from support.webhook_receivers import SECRET, Call, receiver

TOLD = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true"}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/verify_webhook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(service: Service, **wishes: Any) -> Any:
    import base64

    body = {"image": base64.b64encode(photo()).decode(), **wishes}
    headers = {"Content-Type": "application/json"}
    return service.call("POST", "/predictions?explain=cam", json.dumps(body).encode(), headers)


def test_both_events_are_delivered_and_signed(tmp_path: Path, example: ModuleType) -> None:
    """Start and end arrive in order, signed, without the photo; a filter drops one."""
    with (
        receiver() as target,
        running(GUNICORN, tmp_path, DATA_DIR=str(tmp_path / "data"), **TOLD) as service,
    ):
        job_id = make(service, webhook=target.url).json()["id"]
        until(lambda: len(target.calls) == 2)
        make(service, webhook=target.url, webhook_events_filter=["prediction.completed"])
        until(lambda: len(target.calls) == 3)
        time.sleep(0.2)
        calls: list[Call] = list(target.calls)
        documents = [json.loads(call.body) for call in calls]

    for call in calls:
        assert example.verify([SECRET], call.headers, call.body)
        assert b"data:image" not in call.body
    kinds = ["prediction.started", "prediction.completed", "prediction.completed"]
    assert sorted(document["type"] for document in documents[:2]) == sorted(kinds[:2])
    assert documents[2]["type"] == kinds[2]
    completed = next(one["data"] for one in documents if one["type"] == kinds[1])
    assert completed["id"] == job_id
    assert completed["status"] == "succeeded"
    assert completed["predictions"]


def test_a_webhook_survives_a_kill(tmp_path: Path) -> None:
    """A webhook for an unreachable receiver is delivered after a kill and a restart."""
    with receiver() as target:
        port = target.port
    data = str(tmp_path / "data")
    with running(GUNICORN, tmp_path, DATA_DIR=data, **TOLD) as service:
        job_id = make(service, webhook=f"http://127.0.0.1:{port}/").json()["id"]
        until(lambda: service.call("GET", f"/predictions/{job_id}").json()["completed_at"])
        os.killpg(service.process.pid, signal.SIGKILL)
    with receiver(port) as target, running(GUNICORN, tmp_path, DATA_DIR=data, **TOLD):
        until(lambda: len(target.calls) >= 2, 30)

        assert {call.headers["webhook-id"] for call in target.calls} == {
            f"msg_{job_id}_started",
            f"msg_{job_id}_completed",
        }


def test_a_hanging_receiver_delays_nothing(tmp_path: Path) -> None:
    """Predictions end at normal speed although the receiver never answers."""
    with (
        receiver() as target,
        running(GUNICORN, tmp_path, DATA_DIR=str(tmp_path / "data"), **TOLD) as service,
    ):
        made = [make(service, webhook=f"{target.url}/stalls").json()["id"] for _ in range(10)]
        until(
            lambda: all(
                service.call("GET", f"/predictions/{job_id}").json()["completed_at"]
                for job_id in made
            ),
            10,
        )


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        (TOLD, "http://receiver.example/", "https://"),
        ({"WEBHOOK_SECRETS": SECRET}, "https://127.0.0.1/", "not point to a public address"),
        ({"WEBHOOK_SECRETS": SECRET}, "https://169.254.169.254/", "not point to a public address"),
        (TOLD, "nowhere", "not a URL"),
    ],
)
def test_a_forbidden_receiver_is_rejected_immediately(
    tmp_path: Path, environment: dict[str, str], url: str, expected: str
) -> None:
    """An address that is forbidden by itself is a malformed request."""
    with running(GUNICORN, tmp_path, DATA_DIR=str(tmp_path / "data"), **environment) as service:
        answer = make(service, webhook=url)

    assert answer.status == 400
    assert expected in answer.json()["detail"]


def test_a_service_without_a_secret_answers_501(tmp_path: Path) -> None:
    """A request for a webhook gets 501 without a secret, and nothing is queued.

    The secret that `macule key webhook` creates solves it.
    """
    command = [ROOT / ".venv/bin/macule", "key", "webhook"]
    secret = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    with running(GUNICORN, tmp_path) as service:
        without = make(service, webhook="https://receiver.invalid/")
    with running(GUNICORN, tmp_path, WEBHOOK_SECRETS=secret) as service:
        having = make(service, webhook="https://receiver.invalid/")

    assert (without.status, without.json()["type"]) == (501, "urn:macule:problem:no-webhooks")
    assert "WEBHOOK_SECRETS" in without.json()["detail"]
    assert having.status == 202
