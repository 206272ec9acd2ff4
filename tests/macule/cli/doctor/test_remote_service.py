"""`macule doctor URL`: real services pass; other servers and closed ports are reported."""

import subprocess
import sys
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from macule.cli.doctor import remote_service
from macule.cli.doctor.check_result import FAIL
from macule.http.client import Reply
from macule.inference import decoding
from support.images import pixels_of
from support.loopback import Loopback, serving
from support.service import FRAMEWORK, GUNICORN, running
from support.upstreams import Upstream, closed_port

HEALTH = ".venv/bin/python -m infra.serve macule.functions.health:app"


def examine(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "macule.cli", "doctor", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [GUNICORN, FRAMEWORK.replace("{name}", "predict")])
def test_a_real_service_passes(tmp_path: Path, command: str) -> None:
    """Every route, header and time is checked, of a cold service and then of a warm one."""
    with running(command, tmp_path) as service:
        cold, text = examine(f"http://127.0.0.1:{service.port}")
        warm, again = examine(f"http://127.0.0.1:{service.port}/")

    assert (cold, warm) == (0, 0), text + again
    assert "(cold), second" in text
    assert "(already warm), second" in again
    assert "ok   headers: " in text
    assert "FAIL" not in text + again


def test_a_health_function_is_recognised(tmp_path: Path) -> None:
    """It is asked only for its own routes, and the service that it checks is reported."""
    url = f"http://127.0.0.1:{closed_port()}"
    with running(HEALTH, tmp_path) as alone, running(HEALTH, tmp_path, PREDICT_URL=url) as watching:
        well, text = examine(f"http://127.0.0.1:{alone.port}")
        ill, missed = examine(f"http://127.0.0.1:{watching.port}")

    assert (well, ill) == (0, 1)
    assert "this is the health function" in text
    assert "POST" not in text
    assert "FAIL predict: it refused the connection" in missed


def test_another_server_is_recognised() -> None:
    """The result is one clear line, without further requests."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(Loopback(Quiet)) as server:
        code, text = examine(server.url)

    assert code == 1
    assert text.startswith("FAIL macule: GET /health/ answered 404 text/html, without")
    assert len(text.splitlines()) == 1


def test_a_closed_port_is_reported() -> None:
    """A closed port is reported, and an invalid URL is misuse."""
    code, text = examine(f"http://127.0.0.1:{closed_port()}")

    assert (code, text) == (1, "FAIL GET /health/: the service refused the connection\n")
    assert examine("predict.example")[0] == 2


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ("stalls", "the service timed out after 0.5 s"),
        ("drips", "the service timed out after 0.5 s"),
        ("redirects", "redirects to /fine/memory/: check that URL"),
        ("fine", "without X-Memory-Band"),
        ("noise", "the service does not speak HTTP there"),
    ],
)
def test_the_check_ends_in_time(
    other: Upstream, way: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All requests together take no longer than the time limit."""
    monkeypatch.setattr(remote_service, "TOTAL_TIMEOUT_S", 0.5)
    began = time.monotonic()
    (finding,) = remote_service.run_checks(f"{other.url}/{way}")

    assert finding.level == FAIL
    assert text in finding.text
    assert time.monotonic() - began < 1


def test_a_proxy_that_drops_headers_is_reported() -> None:
    """The headers of every answer are checked."""
    reply = Reply(503, {"x-memory-band": "great", "cache-control": "no-store"}, b"{}")
    wrong = remote_service.invalid_headers(remote_service.Response(reply, {}, 1.0))

    assert wrong == ["X-Request-Id", "X-Memory-Band", "Retry-After"]


def test_the_test_photo_is_valid() -> None:
    """It is a PNG that this package decodes."""
    pixels = pixels_of(decoding.decode(remote_service.sample_png(), 64, "squash"))

    assert pixels.shape == (1, 64, 64, 3)
    assert pixels[0, 32, 32].tolist() == [0x5C, 0x3C, 0x30]


def test_control_characters_are_removed(other: Upstream) -> None:
    """Text of a service is printed without control characters."""
    code, text = examine(f"{other.url}/steers")

    assert code == 1
    assert "\x1b" not in text
    assert "?[2J" in text
