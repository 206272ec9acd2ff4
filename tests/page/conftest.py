"""One service for all tests of the page."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from playwright.sync_api import Browser
from support.browser import Visit, visiting
from support.service import GUNICORN, Service, running

Open = Callable[..., AbstractContextManager[Visit]]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        assert service.call("GET", "/warmup/").status == 200
        yield service


@pytest.fixture
def visit(browser: Browser, service: Service) -> Open:
    """Open the page of the shared service: `with visit() as visitor`."""
    return partial(visiting, browser, f"http://127.0.0.1:{service.port}/")
