"""A real Valkey for a module of tests, and the queue in it, empty at each."""

from collections.abc import Iterator

import pytest
from macule.jobs.broker.redis_queue import Valkey
from support.broker import Broker, broker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def queue(server: Broker) -> Valkey:
    server.client.flushall()
    return Valkey(server.url, 60, 1000, live_s=1, look_s=1)
