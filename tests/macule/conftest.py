"""A real Valkey for each test module, and a queue in it, emptied for each test."""

from collections.abc import Iterator

import pytest
from macule.jobs.broker.redis_queue import RedisQueue
from support.broker import Broker, broker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def queue(server: Broker) -> RedisQueue:
    server.client.flushall()
    return RedisQueue(server.url, 60, 1000, lease_s=1, sweep_after_s=1)
