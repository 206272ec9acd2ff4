"""The log of the running service: one line for each request, no personal data, never blocking."""

import base64
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import awslambdaric
import pytest
from macule.observability.log_format import WRITE_TIMEOUT_MS
from support import lambda_runtime_api
from support.images import photo
from support.lambda_runtime_api import CLIENT
from support.service import FRAMEWORK, GUNICORN, ROOT, Service, form, running, until
from support.webhook_receivers import SECRET, receiver

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SERVE = ".venv/bin/python -m infra.serve"


def lines(service: Service) -> list[dict[str, Any]]:
    """Read the lines that this package wrote; LiteRT and make write lines of their own."""
    text = service.log.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def requests(service: Service) -> list[dict[str, Any]]:
    return [line for line in lines(service) if line.get("event") == "request"]


def raw(service: Service, *pieces: bytes) -> bytes:
    """Send bytes unchanged and return the answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"".join(pieces))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("server", [GUNICORN, FRAMEWORK.replace("{name}", "predict")])
def test_each_request_is_one_line_with_its_facts(tmp_path: Path, server: str) -> None:
    """The line of a prediction has its parameters, durations and estimated costs."""
    body = photo(800, 600)
    with running(server, tmp_path) as service:
        service.predict(body, "?explain=cam", **PARENT, **{"X-Request-Id": "mine"})
        service.predict(body, "?explain=cam")
        service.predict(b"<html>")
        service.call("GET", "/health/")
        first, again, refused = requests(service)
        (cold,) = [line for line in lines(service) if line.get("event") == "cold_start"]

    assert {
        "severity": "INFO", "id": "mine", "trace": TRACE, "method": "POST", "route": "/predict",
        "status": 200, "bytes": len(body), "pixels": 480_000, "format": "JPEG", "cache": "miss",
        "cold": True, "rung": "everything",
    }.items() <= first.items()  # fmt: skip
    for stage in ("wait", "read", "import", "decode", "infer", "explain"):
        assert 0 <= first[f"{stage}_ms"] <= first["ms"]
    assert len(first["model"]) == 12
    assert first["band"] in ("idle", "loaded", "predicting")
    assert (again["cache"], "cold" in again, "trace" in again) == ("hit", False, False)
    assert (refused["status"], refused["slug"], "pixels" in refused) == (
        415,
        "unsupported-image",
        False,
    )
    assert cold["model"] == first["model"]
    assert cold["import_ms"] > 0


def test_the_log_has_no_personal_data(tmp_path: Path) -> None:
    """File names, queries, headers, results and ids of predictions are not logged."""
    fields, kind = form("image", photo(), "nguyen-van-an.jpg")
    agent = {"User-Agent": "Sonda", "Cookie": "secretive", "Referer": "https://clinic.example"}
    settings = {"WEBHOOK_SECRETS": SECRET, "WEBHOOK_LOOPBACK": "true"}
    with (
        receiver() as target,
        running(GUNICORN, tmp_path, LOG_LEVEL="debug", **settings) as service,
    ):
        answer = service.call("POST", "/predict/?top_k=3&patient=4711", fields, {**kind, **agent})
        hook = json.dumps(
            {"image": base64.b64encode(photo()).decode(), "webhook": f"{target.url}/410?s=hidden"}
        )
        kind = {"Content-Type": "application/json", **agent}
        job = service.call("POST", "/predictions", hook.encode(), kind).json()["id"]
        service.call("GET", f"/predictions/{job}", headers=agent)
        service.call("GET", "/anamnesis/4711", headers=agent)
        raw(service, b"GET /health/ HTTP/1.1\r\nHost: x\r\nmy diagnosis\r\n\r\n")
        until(lambda: "webhook given up" in service.log.read_text())
        text = service.log.read_text()
        found = answer.json()["predictions"]

    for word in (
        "nguyen", "4711", "patient", "Sonda", "secretive", "clinic", "hidden", "anamnesis",
        "diagnosis", "ip=", job, found[0]["label"], found[0]["name"],
    ):  # fmt: skip
        assert word not in text
    assert "/predictions/{id}" in text
    assert "Invalid request" in text


def test_addresses_are_logged_only_on_request(tmp_path: Path) -> None:
    """LOG_ADDRESSES=true logs client addresses, also in gunicorn's lines; by default none is.

    Forwarded addresses count only from a trusted proxy.
    """

    def log_text(**environment: str) -> str:
        with running(GUNICORN, tmp_path, **environment) as service:
            forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
            service.call("GET", "/nowhere", headers=forwarded)
            raw(service, b"GET /health/ HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n")
            return service.log.read_text()

    text = log_text(LOG_ADDRESSES="true")
    assert '"address":"127.0.0.1"' in text
    assert "ip=127.0.0.1" in text
    behind = log_text(LOG_ADDRESSES="true", TRUSTED_PROXIES="127.0.0.1")
    assert '"address":"203.0.113.7"' in behind
    assert "127.0.0.1" not in log_text()


def test_no_client_can_forge_a_line(tmp_path: Path) -> None:
    """Newlines, quotes and invalid UTF-8 from a client never end a log line."""
    evil = b'\xff\xfe"}\\n{"severity":"ERROR","event":"forged"}'
    fields, kind = form("image", photo(), 'a.jpg\n{"event":"forged"}')
    with running(GUNICORN, tmp_path, LOG_LEVEL="debug") as service:
        raw(service, b"GET /%0A{%22event%22:%22forged%22} HTTP/1.1\r\nHost: x\r\n\r\n")
        raw(service, b"GET /", evil.replace(b" ", b""), b" HTTP/1.1\r\nHost: x\r\n\r\n")
        raw(service, b'BREW"} / HTTP/1.1\r\nHost: x\r\n\r\n')
        for header in (b"X-Request-Id", b"traceparent", b"Prefer", b"Content-Type", b"Accept"):
            raw(service, b"GET /health/ HTTP/1.1\r\nHost: x\r\n", header, b": ", evil, b"\r\n\r\n")
        service.call("POST", "/predict/", fields, kind)
        text = service.log.read_text()
        found = lines(service)

    assert "forged" not in text
    assert all("severity" in line and "time" in line for line in found)
    assert text.count('"time"') == len(found) >= 8


@pytest.mark.parametrize(
    "where",
    ["2>/dev/full", "2> >(exec true)", "2> >(exec sleep 60)", "2>&-"],
    ids=["a-full-disk", "a-closed-pipe", "a-pipe-nobody-reads", "closed"],
)
def test_an_unwritable_log_stops_nothing(tmp_path: Path, where: str) -> None:
    """Every request is answered at normal speed, and lost lines are counted."""
    script = tmp_path / "serve.sh"
    script.write_text(f"exec {SERVE} {where}\n")
    with running(f"bash {script}", tmp_path, LOG_LEVEL="debug") as service:
        service.predict(photo())
        statuses = {service.call("GET", "/health/").status for _ in range(300)}  # a pipe is full
        began = time.monotonic()
        statuses |= {service.call("GET", "/health/").status for _ in range(200)}
        spent_s = time.monotonic() - began
        answers = [service.predict(photo()).status, service.predict(b"x").status]
        text = service.call("GET", "/metrics").body.decode()

    lost = int(text.partition("\nmacule_log_lines_lost_total ")[2].split()[0])
    assert statuses == {200}
    assert answers == [200, 415]
    assert spent_s < 200 * WRITE_TIMEOUT_MS / 2e3  # nobody waits for a reader that does not exist
    assert (lost > 0) == (where != "2>&-")


def test_a_terminal_shows_text(tmp_path: Path) -> None:
    """On a terminal the log is text by default; LOG=json also works there."""

    def logged_lines(**environment: str) -> str:
        master, slave = os.openpty()
        script = tmp_path / "serve.sh"
        script.write_text(f"exec {SERVE} 2>{os.ttyname(slave)}\n")
        with running(f"bash {script}", tmp_path, **environment) as service:
            service.call("GET", "/nowhere")
        os.close(slave)
        text = os.read(master, 65536).decode()
        os.close(master)
        return text

    assert "INFO GET other 404  event=request id=" in logged_lines()
    assert '"message":"GET other 404"' in logged_lines(LOG="json")


def test_levels_are_configurable(tmp_path: Path) -> None:
    """LOG_LEVEL=warning keeps memory refusals and worse; debug also shows pings."""

    (tmp_path / "model.json").write_text("no card")

    def logged(level: str) -> list[str]:
        with running(GUNICORN, tmp_path, LOG_LEVEL=level, MODEL_DIR=str(tmp_path)) as service:
            service.call("GET", "/nowhere")
            service.predict(photo())
            service.call("GET", "/ready/")
            return [line["message"] for line in requests(service)]

    assert logged("warning") == ["POST /predict 503"]
    assert logged("info") == ["GET other 404", "POST /predict 503"]
    assert "GET /ready 503" in logged("debug")


def test_lambda_gets_the_same_lines(tmp_path: Path) -> None:
    """Under AWS's runtime client a request is one line with the trace of X-Amzn-Trace-Id."""
    for place in ("task", "opt/python", "client"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "task/main.py").symlink_to(ROOT / "functions/predict/main.py")
    (tmp_path / "opt/python/macule").symlink_to(ROOT / "layers/model/macule")
    for pattern in CLIENT:
        for path in Path(awslambdaric.__file__).parent.parent.glob(pattern):
            (tmp_path / "client" / path.name).symlink_to(path)
    event = {
        "rawPath": "/nowhere",
        "headers": {"x-amzn-trace-id": f"Root=1-{TRACE[:8]}-{TRACE[8:]}"},
        "requestContext": {"http": {"method": "GET"}},
    }
    with lambda_runtime_api.running(tmp_path, 512, tmp_path / "log") as function:
        function.invoke(event)
        found = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    (line,) = found
    assert (line["message"], line["trace"]) == ("GET other 404", TRACE)
