"""One service with keys for all tests of the documentation, which needs no key."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from playwright.sync_api import Browser
from support.browser import Visit, visiting
from support.service import GUNICORN, Service, running

KEY = "mk_reader"
Open = Callable[..., AbstractContextManager[Visit]]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    folder = tmp_path_factory.mktemp("logs")
    with running(GUNICORN, folder, API_KEYS=f"reader:{digest}") as service:
        assert service.call("GET", "/warmup/", headers={"X-API-Key": KEY}).status == 200
        yield service


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture
def visit(browser: Browser, service: Service) -> Open:
    """Open the documentation of the shared service: `with visit() as visitor`."""
    address = f"http://127.0.0.1:{service.port}/"
    return partial(visiting, browser, address, path="docs/")
