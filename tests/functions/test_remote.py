"""The predict function with a remote model, behind both servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from macule.registry import local
from support import model_sources
from support.images import photo
from support.model_sources import Web, named
from support.service import FRAMEWORK, GUNICORN, Service, running

SERVERS = {"gunicorn": GUNICORN, "functions-framework": FRAMEWORK.replace("{name}", "predict")}


@pytest.fixture
def web() -> Iterator[Web]:
    with model_sources.web() as server:
        yield server


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest, web: Web, tmp_path: Path) -> Iterator[Service]:
    """Run a service that starts before its model is available."""
    settings = {
        "MODEL_URI": f"{web.url}/lesions?sig=secret",
        "MODEL_CACHE_DIR": str(tmp_path / "cache"),
    }
    with running(SERVERS[request.param], tmp_path, **settings) as service:
        yield service


def test_a_service_downloads_its_model(service: Service, web: Web, tmp_path: Path) -> None:
    """It reports why there is none, loads it as soon as it exists, and downloads it once."""
    refused = service.predict(photo())
    assert (refused.status, refused.json()["type"]) == (503, "urn:macule:problem:model-unavailable")
    assert "neither a model.json" in refused.json()["detail"]
    assert b"secret" not in refused.body
    assert "neither a model.json" in service.call("GET", "/ready/").json()["detail"]

    web.hold(named(tmp_path / "1", "one"), "/lesions")
    assert service.call("GET", "/model/").json()["name"] == "one"
    assert service.predict(photo()).json()["model"]["name"] == "one"
    assert service.predict(photo()).status == 200
    assert web.asked.count("/lesions/model.tflite") == 1
    assert "secret" not in service.log.read_text()


def test_a_start_without_network_serves_the_last_model(web: Web, tmp_path: Path) -> None:
    """A service that starts while the source is down serves the cached model and logs a warning."""
    settings = {"MODEL_URI": f"{web.url}/lesions", "MODEL_CACHE_DIR": str(tmp_path / "cache")}
    web.hold(local.DEFAULT_MODEL_DIR, "/lesions")
    with running(GUNICORN, tmp_path, **settings) as service:
        before = service.predict(photo()).json()
    web.files.clear()

    with running(GUNICORN, tmp_path, **settings) as service:
        assert service.predict(photo()).json()["model"] == before["model"]
        assert service.log.read_text().count("the last good model serves") == 1


def test_two_model_sources_prevent_the_start(tmp_path: Path) -> None:
    """MODEL_DIR together with MODEL_URI is an error in gunicorn's log."""
    both = {"MODEL_DIR": local.DEFAULT_MODEL_DIR, "MODEL_URI": "https://example.org/lesions"}

    with (
        pytest.raises(AssertionError, match="MODEL_DIR and MODEL_URI are both set"),
        running(GUNICORN, tmp_path, **both),
    ):
        pass
