"""When a worker is worn, and that its replacement costs nobody an answer."""

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


def worn(wear: RecyclePolicy, sizes_mb: list[float], step_s: float = 2.0) -> list[str]:
    """Let a prediction follow another every *step_s*, each leaving the worker of a size."""
    return [
        wear.add(lambda size=size: int(size * MB), place * step_s)  # type: ignore[misc]
        for place, size in enumerate(sizes_mb)
    ]


def test_a_worker_that_keeps_more_than_it_settled_at_is_worn_once() -> None:
    """Growth that stays is reported one time, with both figures."""
    wear = RecyclePolicy(10 * MB, None, None, 0.0)

    said = [text for text in worn(wear, [40.0] * SETTLING_PREDICTIONS + [55.0] * 20) if text]

    assert said == ["it uses 55 MB, more than 50"]


def test_memory_that_comes_and_goes_wears_nobody_out() -> None:
    """A peak that is gone within the time is what decoding takes."""
    wear = RecyclePolicy(10 * MB, None, None, 0.0)
    steps = int(SUSTAINED_S // 2)

    assert not any(worn(wear, [40.0] * SETTLING_PREDICTIONS + ([90.0] * steps + [45.0]) * 10))


def test_a_worker_is_worn_after_as_many_predictions_as_it_may_make() -> None:
    """MAX_REQUESTS counts predictions."""
    wear = RecyclePolicy(10 * MB, None, 30, 0.0)

    said = worn(wear, [40.0] * 40, 0.0)

    assert said.index("it has made 30 predictions") == 29
    assert len([text for text in said if text]) == 1


def load(service: Service, seconds: float, ended: threading.Event, clients: int = 4) -> list[int]:
    """Predict by some clients until *ended* is set; returns every status, 0 where none came."""
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
    """Four clients see 200 only, while three workers in a row are replaced."""
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


def test_pings_wear_nobody_out(tmp_path: Path) -> None:
    """Health checks and warm-ups are no predictions."""
    with running(GUNICORN, tmp_path, MAX_REQUESTS="5") as service:
        before = workers(service)
        for path in ("/health/", "/ready/", "/memory/", "/warmup/", "/model/") * 4:
            service.call("GET", path)

        assert len(before) == 1
        assert workers(service) == before


def test_who_is_turned_away_wears_nobody_out(tmp_path: Path) -> None:
    """Ten times as many wrong keys as MAX_REQUESTS: the worker stays."""
    with running(GUNICORN, tmp_path, MAX_REQUESTS="5", API_KEYS=f"a:{'0' * 64}") as service:
        before = workers(service)
        statuses = {service.predict(photo()).status for _ in range(50)}
        time.sleep(1.5)  # it looks once a second
        after = workers(service)

    assert statuses == {401}
    assert before == after
