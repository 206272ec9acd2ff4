"""The cache behind gunicorn: one answer for the same photo; cache faults cause no error."""

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.broker import PASSWORD, broker
from support.images import photo, saved
from support.service import GUNICORN, GUNICORN_DEV, ROOT, Service, running

OWN = ("id", "metrics")  # fields that differ between answers


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        yield service


@pytest.fixture(scope="module")
def redis_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that caches answers in Redis."""
    folder = tmp_path_factory.mktemp("logs")
    with broker(folder) as server, running(GUNICORN_DEV, folder, REDIS_URL=server.url) as service:
        yield service


def used(document: dict[str, Any]) -> str:
    return str(document["metrics"]["cache"])


def comparable(document: dict[str, Any]) -> str:
    """Return an answer without the fields that differ between answers."""
    return json.dumps({name: value for name, value in document.items() if name not in OWN})


@pytest.mark.parametrize(
    "query", ["", "?top_k=1", "?explain=cam", "?explain=cam&top_k=2", "?tta=4"]
)
def test_a_hit_equals_the_miss(service: Service, query: str) -> None:
    """A hit has the same bytes as the miss, map included, except for id and metrics."""
    body = photo(500, 400 + len(query))
    miss, hit = (service.predict(body, query) for _ in range(2))
    first, second = miss.json(), hit.json()

    assert (used(first), used(second)) == ("miss", "hit")
    assert comparable(first) == comparable(second)
    assert list(first) == list(second)
    assert first["id"] != second["id"]
    assert (second["metrics"]["decode_ms"], second["metrics"]["infer_ms"]) == (0, 0)
    assert second["metrics"]["cold_start"] is False
    assert second["metrics"]["total_ms"] > 0
    assert re.fullmatch(r"total;dur=[\d.]+", hit.headers["server-timing"])


def page_photo() -> bytes:
    """Return a real photo as the page sends it: 1,024 px, JPEG."""
    with Image.open(ROOT / "examples/spot.jpg") as image:
        image.thumbnail((1024, 1024))
        return saved(image, quality=85)


def noise() -> bytes:
    """Return noise, which makes the longest answer."""
    pixels = np.random.default_rng(7).integers(0, 256, (256, 256, 3), np.uint8)
    return saved(Image.fromarray(pixels), "PNG")


@pytest.mark.parametrize("body", [page_photo(), noise()], ids=["the page's photo", "noise"])
@pytest.mark.parametrize("where", ["service", "redis_service"])
def test_answers_with_maps_are_cached(
    body: bytes, where: str, request: pytest.FixtureRequest
) -> None:
    """The same photo with its map is a hit in memory and in Redis, even with the longest answer."""
    service = request.getfixturevalue(where)
    asked = [service.predict(body, "?explain=cam").json() for _ in range(2)]

    assert [used(document) for document in asked] == ["miss", "hit"]
    assert asked[1]["explanation"]["overlay"].startswith("data:image/png")


def test_options_are_part_of_the_key(service: Service) -> None:
    """Options of the request are part of the key; an additional byte makes another photo."""
    body = photo(510, 410)
    queries = ["", "?top_k=1", "?top_k=2", "?explain=cam", "?tta=4"]

    assert {used(service.predict(body, query).json()) for query in queries} == {"miss"}
    assert used(service.predict(body + b"\0").json()) == "miss"
    assert {used(service.predict(body, query).json()) for query in queries} == {"hit"}


def test_cache_control_is_respected(service: Service) -> None:
    """no-cache and no-store compute again; only the result of no-cache is stored."""
    asked = ["no-store", "no-store", "", "No-Cache", "max-age=9, no-cache", ""]
    body = photo(520, 420)

    found = [used(service.predict(body, **{"Cache-Control": way}).json()) for way in asked]

    assert found == ["miss", "miss", "miss", "miss", "miss", "hit"]


def test_an_error_is_not_cached(service: Service) -> None:
    """A damaged photo is decoded each time, with the same answer."""
    answers = [service.predict(photo()[:3000]) for _ in range(2)]

    assert [answer.status for answer in answers] == [422, 422]
    assert len({answer.json()["detail"] for answer in answers}) == 1


def predict_at_once(service: Service, body: bytes, count: int = 64) -> list[dict[str, Any]]:
    """Send *count* requests at once; each must get a 200."""
    begin = threading.Barrier(count)

    def ask(_: int) -> dict[str, Any]:
        begin.wait(30)
        answer = service.predict(body)
        assert answer.status == 200
        document: dict[str, Any] = answer.json()
        return document

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_64_identical_requests_compute_once(service: Service) -> None:
    """One miss and 63 equal hits; another photo sent meanwhile is answered too."""
    body, other = photo(4032, 3024), photo(530, 430)
    with ThreadPoolExecutor(1) as pool:
        between = pool.submit(service.predict, other)
        answers = predict_at_once(service, body)

    assert Counter(map(used, answers)) == {"miss": 1, "hit": 63}
    assert len(set(map(comparable, answers))) == 1
    assert len({answer["id"] for answer in answers}) == 64
    assert between.result().status == 200
    assert service.call("GET", "/memory/").json()["slots"]["admitted"] == 0


def test_64_damaged_photos_each_get_an_error(service: Service) -> None:
    """A request that waited for a failed one tries itself and gets the same error."""
    body = photo(2000, 1500)[:20_000]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(service.predict, [body] * 64))

    assert Counter(answer.status for answer in answers) == {422: 64}


def test_memory_reports_the_cache(service: Service) -> None:
    """/memory/ shows the cache's part, within CACHE_MB."""
    service.predict(photo(540, 440), "?explain=cam")

    assert 0 < service.call("GET", "/memory/").json()["ledger"]["cache_mb"] <= 2


def test_a_disabled_cache_stores_nothing(tmp_path: Path) -> None:
    """With CACHE_MB=0 each request computes, at once or in turn."""
    with running(GUNICORN, tmp_path, CACHE_MB="0") as service:
        answers = [*predict_at_once(service, photo(), 8), service.predict(photo()).json()]

        assert Counter(map(used, answers)) == {"miss": 9}
        assert service.call("GET", "/memory/").json()["ledger"]["cache_mb"] == 0


def test_instances_share_redis(tmp_path: Path) -> None:
    """A second service's first answer is a hit, and Redis holds no bytes of a photo."""
    body = photo(600, 500)
    with broker(tmp_path) as server:
        with running(GUNICORN_DEV, tmp_path, REDIS_URL=server.url) as one:
            miss = one.predict(body, "?explain=cam").json()
            plain = one.predict(body).json()
        with running(GUNICORN_DEV, tmp_path, REDIS_URL=server.url) as two:
            hit = two.predict(body, "?explain=cam").json()
            log = two.log.read_text()
        kept = server.client.execute_command("EVAL", ALL_VALUES, "0")

    assert (used(miss), used(plain), used(hit)) == ("miss", "miss", "hit")
    assert comparable(miss) == comparable(hit)
    assert isinstance(kept, bytes)
    assert len(kept) < 300_000
    assert body[:64] not in kept
    assert body[-64:] not in kept
    assert PASSWORD not in log


ALL_VALUES = """
local found = ""
for _, name in ipairs(redis.call("KEYS", "*")) do
  assert(string.sub(name, 1, 16) == "macule:1:answer:")
  found = found .. redis.call("GET", name)
end
return found
"""


def test_64_at_once_compute_once_with_redis(tmp_path: Path) -> None:
    """One miss, and concurrent requests ask Redis at most once for each computation."""
    with (
        broker(tmp_path) as server,
        running(GUNICORN_DEV, tmp_path, REDIS_URL=server.url) as service,
    ):
        answers = predict_at_once(service, photo(4032, 3024))

    assert Counter(map(used, answers)) == {"miss": 1, "hit": 63}


@pytest.mark.parametrize(
    "poison",
    [b"", b"{", b"null", b"[]", b"{}", b"[" * 200_000, b"\xff", b'{"decision": 1}', bytes(2**20),
     b'{"decision": "x", "explanation": null, "predictions": 5}',
     b'{"decision": "x", "explanation": null, "predictions": [], "status": "failed"}'],
    ids=lambda poison: f"{poison[:20]!r}",
)  # fmt: skip
def test_an_invalid_value_in_redis_is_a_miss(
    poison: bytes, poisoned: tuple[Service, Any], request: pytest.FixtureRequest
) -> None:
    """An invalid value in Redis is computed again and replaced."""
    service, server = poisoned
    body = photo(300, 200 + request.node.callspec.indices["poison"])
    right = service.predict(body).json()
    server.client.execute_command("EVAL", POISON, "0", poison)
    found, again = (service.predict(body).json() for _ in range(2))

    assert [used(document) for document in (right, found, again)] == ["miss", "miss", "hit"]
    assert comparable(right) == comparable(found) == comparable(again)


POISON = 'for _, name in ipairs(redis.call("KEYS", "*")) do redis.call("SET", name, ARGV[1]) end'


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Any]]:
    folder = tmp_path_factory.mktemp("logs")
    with broker(folder) as server, running(GUNICORN_DEV, folder, REDIS_URL=server.url) as service:
        yield service, server


@pytest.mark.parametrize("fault", ["killed", pytest.param("stopped", marks=pytest.mark.slow)])
def test_redis_may_die_at_any_time(fault: str, tmp_path: Path) -> None:
    """If Redis is killed or stopped under load, every answer is 200 and hits return later.

    A request counts as delayed if it takes 0.15 s longer than any answer before.
    """
    bodies = [photo(200 + 8 * n, 200) for n in range(4)]
    took_s, statuses, ended = [], [], threading.Event()

    def load(n: int) -> None:
        while not ended.is_set():
            began = time.monotonic()
            statuses.append(service.predict(bodies[n]).status)
            took_s.append(time.monotonic() - began)

    with (
        broker(tmp_path) as server,
        running(GUNICORN_DEV, tmp_path, REDIS_URL=server.url) as service,
    ):
        service.predict(bodies[0])
        with ThreadPoolExecutor(4) as pool:
            for n in range(4):
                pool.submit(load, n)
            time.sleep(0.5)
            before = len(took_s)
            server.kill() if fault == "killed" else server.process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            server.start() if fault == "killed" else server.process.send_signal(signal.SIGCONT)
            time.sleep(4.5)  # the longest pause so far
            ended.set()
        hit = [used(service.predict(bodies[0]).json()) for _ in range(2)][-1]
        log = service.log.read_text()

    assert Counter(statuses).keys() == {200}
    assert hit == "hit"
    late_s = max(took_s[:before]) + 0.15
    assert sum(each > late_s for each in took_s) < len(took_s) / 10
    assert 1 <= log.count("the cache fails") < 10
    assert PASSWORD not in log
