"""The health function: its routes, the predict service it checks, and its small imports."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.service import FRAMEWORK, GUNICORN, ROOT, running
from support.upstreams import Upstream, closed_port

HEALTH = ".venv/bin/python -m infra.serve macule.functions.health:app"
HEAVY = {"numpy", "PIL", "ai_edge_litert", "flask", "multipart", "tensorflow"}
ASKING = {"ssl", "http.client", "urllib.request"}  # imported only when a predict service is checked
ERRORS = {
    "stalls": "timed out after 0.5 s",
    "drips": "timed out after 0.5 s",
    "redirects": "answered 302",
    "html": "answered something other than JSON",
    "huge": "answered with more than 262,144 bytes",
    "closes": "closed the connection before it answered",
}


def loaded(path: str, **environment: str) -> set[str]:
    """Return the modules of a process that has answered *path* through the Lambda adapter."""
    code = f"""
import sys
from macule.functions.health import handler
event = {{"httpMethod": "GET", "path": "{path}", "headers": {{}}}}
assert handler(event, None)["statusCode"] == 200
print(*sys.modules)
"""
    output = subprocess.check_output(
        [".venv/bin/python", "-c", code], cwd=ROOT, text=True, env={**os.environ, **environment}
    )
    return set(output.split())


def test_it_serves_only_health_memory_and_its_page(tmp_path: Path) -> None:
    """functions-framework answers these routes; predict does not exist there."""
    with running(FRAMEWORK.replace("{name}", "health"), tmp_path) as service:
        assert service.call("GET", "/health").body == b"ok"
        memory = service.call("GET", "/memory/").json()
        page = service.call("GET", "/").body.decode()
        assert service.call("POST", "/predict/", b"x").status == 404

    assert memory["model_loaded"] is False
    assert "predict" not in memory
    assert "<code>PREDICT_URL</code> is not set" in page


def test_it_shows_a_real_predict_service(tmp_path: Path) -> None:
    """Both are measured without using the environment's proxy or loading a model."""
    proxy = f"http://127.0.0.1:{closed_port()}"
    with running(GUNICORN, tmp_path) as predict:
        url = f"http://127.0.0.1:{predict.port}/"
        with running(HEALTH, tmp_path, PREDICT_URL=url, http_proxy=proxy) as health:
            memory = health.call("GET", "/memory/").json()
            page = health.call("GET", "/").body.decode()
            state = predict.call("GET", "/ready/").json()["state"]
            predict.call("GET", "/warmup/")
            warm = health.call("GET", "/memory/").json()["predict"]

    assert memory["predict"].keys() == memory.keys() - {"predict"}
    assert state == "cold"
    assert warm["model_loaded"] is True
    assert warm["pss_mb"] > memory["pss_mb"]
    assert '<th scope="col">predict</th>' in page


@pytest.mark.parametrize("way", ERRORS)
def test_it_answers_in_time_whatever_predict_does(
    tmp_path: Path, other: Upstream, way: str
) -> None:
    """Its own report arrives with 200 and the reason, and no other host is asked."""
    before = len(other.asked)
    url = f"{other.url}/{way}"
    with running(HEALTH, tmp_path, PREDICT_URL=url, PREDICT_TIMEOUT_S="0.5") as health:
        began = time.monotonic()
        answer = health.call("GET", "/memory/")
        took_s = time.monotonic() - began

    assert answer.status == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["predict"] == {"error": ERRORS[way]}
    assert took_s < 0.5 + 0.5
    assert other.paths(before) == [f"/{way}/memory/"]


def test_it_answers_when_predict_is_down(tmp_path: Path) -> None:
    """The page reports it too, with 200."""
    with running(HEALTH, tmp_path, PREDICT_URL=f"http://127.0.0.1:{closed_port()}") as health:
        memory = health.call("GET", "/memory/")
        page = health.call("GET", "/")

    assert memory.json()["predict"] == {"error": "refused the connection"}
    assert (memory.status, page.status) == (200, 200)
    assert "predict refused the connection." in page.body.decode()


def test_the_lambda_adapter_loads_nothing_heavy(other: Upstream) -> None:
    """An answer loads no numpy, Pillow or runtime, and no TLS before predict is asked."""
    url = f"{other.url}/fine"

    assert loaded("/memory/") & (HEAVY | ASKING) == set()
    assert loaded("/health/", PREDICT_URL=url) & (HEAVY | ASKING) == set()
    assert loaded("/memory/", PREDICT_URL=url) & (HEAVY | ASKING) == {"ssl", "http.client"}
