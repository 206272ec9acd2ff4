"""Recycling of workers: when it is due, and that it loses no request."""

import re
import threading
import time
from pathlib import Path

import pytest
from macule.memory.recycling import SETTLING_PREDICTIONS, SUSTAINED_S, RecyclePolicy
from support.images import photo
from support.load_clients import workers
from support.service import GUNICORN, Service, running

MB = 2**20


def reasons(policy: RecyclePolicy, sizes_mb: list[float], step_s: float = 2.0) -> list[str]:
    """Simulate a prediction every *step_s*, after each of which the worker has a size."""
    return [
        policy.add(lambda size=size: int(size * MB), place * step_s)  # type: ignore[misc]
        for place, size in enumerate(sizes_mb)
    ]


def test_growth_above_the_settled_size_is_reported_once() -> None:
    """Sustained growth is reported once, with both figures."""
    policy = RecyclePolicy(10 * MB, None, None, 0.0)

    messages = [
        text for text in reasons(policy, [40.0] * SETTLING_PREDICTIONS + [55.0] * 20) if text
    ]

    assert messages == ["it uses 55 MB, more than 50"]


def test_temporary_memory_recycles_no_worker() -> None:
    """A peak shorter than the time limit is what decoding takes."""
    policy = RecyclePolicy(10 * MB, None, None, 0.0)
    steps = int(SUSTAINED_S // 2)

    assert not any(reasons(policy, [40.0] * SETTLING_PREDICTIONS + ([90.0] * steps + [45.0]) * 10))


def test_max_requests_recycles_a_worker() -> None:
    """MAX_REQUESTS counts predictions."""
    policy = RecyclePolicy(10 * MB, None, 30, 0.0)

    messages = reasons(policy, [40.0] * 40, 0.0)

    assert messages.index("it has made 30 predictions") == 29
    assert len([text for text in messages if text]) == 1


def load(service: Service, seconds: float, ended: threading.Event, clients: int = 4) -> list[int]:
    """Predict with several clients until *ended* is set; return every status, 0 for none."""
    body, found = photo(320, 240), []
    until = time.monotonic() + seconds

    def one() -> None:
        while time.monotonic() < until and not ended.is_set():
            try:
                found.append(service.predict(body).status)
            except OSError:
                found.append(0)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(
    ("why", "environment"),
    [
        ("predictions", {"MAX_REQUESTS": "60", "MEMORY_LIMIT_MB": "512"}),
        pytest.param(
            "predictions",
            {"MAX_REQUESTS": "60", "MEMORY_LIMIT_MB": "96"},
            marks=pytest.mark.slow,
        ),
        pytest.param("uses", {"RECYCLE_MB": "1", "MEMORY_LIMIT_MB": "512"}, marks=pytest.mark.slow),
    ],
    ids=["by-count", "by-count-without-room-for-two", "by-memory"],
)
def test_three_recycles_under_load_fail_no_request(
    tmp_path: Path, why: str, environment: dict[str, str]
) -> None:
    """Four clients get only 200 while three workers are replaced in turn."""
    with running(GUNICORN, tmp_path, CACHE_MB="0", **environment) as service:
        seen, ended = set(workers(service)), threading.Event()

        def look() -> None:
            while len(seen) < 5 and not ended.is_set():
                seen.update(workers(service))
                time.sleep(0.05)
            ended.set()

        watcher = threading.Thread(target=look)
        watcher.start()
        statuses = load(service, 60, ended)
        ended.set()
        watcher.join()
        log = service.log.read_text()

        assert set(statuses) == {200}
        assert len(re.findall(f"is replaced: it .*{why}", log)) >= 3


def test_pings_recycle_no_worker(tmp_path: Path) -> None:
    """Health checks and warm-ups do not count as predictions."""
    with running(GUNICORN, tmp_path, MAX_REQUESTS="5") as service:
        before = workers(service)
        for path in ("/health/", "/ready/", "/memory/", "/warmup/", "/model/") * 4:
            service.call("GET", path)

        assert len(before) == 1
        assert workers(service) == before


def test_refused_requests_recycle_no_worker(tmp_path: Path) -> None:
    """After ten times MAX_REQUESTS wrong keys the worker is the same."""
    with running(GUNICORN, tmp_path, MAX_REQUESTS="5", API_KEYS=f"a:{'0' * 64}") as service:
        before = workers(service)
        statuses = {service.predict(photo()).status for _ in range(50)}
        time.sleep(1.5)  # it checks once a second
        after = workers(service)

    assert statuses == {401}
    assert before == after
