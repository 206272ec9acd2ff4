"""The answer cache is bounded, expires entries, and never causes an error."""

import logging
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macule.caching import answers
from macule.caching.answers import MAX_VALUE_BYTES, ROW_OVERHEAD_BYTES, MemoryCache
from macule.caching.redis_client import LONGEST_PAUSE_S, TIMEOUT_S, RedisCache
from macule.registry import local, model_card
from support.broker import PASSWORD, Broker, broker

CARD = model_card.read(local.DEFAULT_MODEL_DIR).document
NAMES = "abcdef"


@contextmanager
def cache_with(url: str, tick: Callable[[], float] = time.monotonic) -> Iterator[RedisCache]:
    kept = RedisCache(url, 60, MAX_VALUE_BYTES, tick)
    try:
        yield kept
    finally:
        kept.server.close()


def clock() -> tuple[list[float], Callable[[], float]]:
    """Return a clock that the test sets."""
    now = [0.0]
    return now, lambda: now[0]


def test_every_part_of_a_key_matters() -> None:
    """Another image, file, threshold, name, number of labels or map gives another key."""
    cards: list[dict[str, Any]] = [
        dict(CARD),
        {**CARD, "sha256": "0" * 64},
        {**CARD, "thresholds": {**CARD["thresholds"], "inconclusive": 0.123}},
        {**CARD, "temperature": 9.0},
        {**CARD, "names": {"en": CARD["labels"]}},
    ]
    parts = product(("a" * 64, "b" * 64), cards, (None, 1, 2), (False, True), (False, True))

    keys = [answers.cache_key(*part) for part in parts]

    assert len(set(keys)) == len(keys) == 2 * 5 * 3 * 2 * 2
    assert all(key.startswith("macule:1:answer:") for key in keys)
    assert answers.cache_key("a", CARD, None) == answers.cache_key(
        "a", dict(reversed(CARD.items())), None
    )


@given(
    st.integers(0, 4 * ROW_OVERHEAD_BYTES),
    st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 3 * ROW_OVERHEAD_BYTES))),
)
def test_memory_keeps_the_latest_entries_that_fit(
    most_bytes: int, steps: list[tuple[str, int | None]]
) -> None:
    """The size never exceeds the limit, and the oldest entries are removed."""
    kept, model = MemoryCache(most_bytes, 60), OrderedDict[str, bytes]()
    for name, size in steps:
        if size is None:
            assert kept.get(name) == model.get(name)
            if name in model:
                model.move_to_end(name)
            continue
        model.pop(name, None)
        kept.put(name, bytes(size))
        if ROW_OVERHEAD_BYTES + size <= most_bytes:
            model[name] = bytes(size)
        while sum(ROW_OVERHEAD_BYTES + len(value) for value in model.values()) > most_bytes:
            model.popitem(last=False)

        assert (
            kept.held_bytes
            == sum(ROW_OVERHEAD_BYTES + len(value) for value in model.values())
            <= most_bytes
        )
    assert {name: kept.get(name) for name in model} == dict(model)


def test_old_entries_expire() -> None:
    """An entry is returned until its time is over, and then takes no memory."""
    now, tick = clock()
    kept = MemoryCache(10**6, 60, tick)
    kept.put("a", b"{}")
    now[0] = 59.9
    young = kept.get("a")
    now[0] = 60.0

    assert (young, kept.get("a"), kept.held_bytes) == (b"{}", None, 0)


def test_values_above_the_limit_are_not_stored() -> None:
    """One large explanation does not displace a thousand small answers."""
    kept = MemoryCache(10**7, 60)
    kept.put("large", bytes(MAX_VALUE_BYTES))
    kept.put("small", bytes(100))

    assert (kept.get("large"), kept.get("small")) == (None, bytes(100))


GROWTH = """
import os, sys
from macule.caching.answers import MemoryCache
def private(): return next(int(l.split()[1]) for l in open("/proc/self/status") if "RssAnon" in l)
kept, most = MemoryCache(int(sys.argv[1]), 3600), int(sys.argv[1])
names = (os.urandom(32).hex() for _ in range(20_000))
before = private()
for name in names:
    kept.put(name, os.urandom(int(sys.argv[2])))
    assert kept.held_bytes <= most
print((private() - before) * 1024 / most, kept.held_bytes / most)
"""


@pytest.mark.memory
@pytest.mark.parametrize("value_bytes", [20, 400, 30_000])
def test_twenty_thousand_answers_stay_within_the_limit(value_bytes: int) -> None:
    """A process grows by the limit at most, for any size of values."""
    words = [sys.executable, "-c", GROWTH, str(4 * 2**20), str(value_bytes)]
    grown, counted = map(float, subprocess.check_output(words, text=True).split())

    assert counted > 0.95
    assert grown < 1.1


def test_redis_expires_values(tmp_path: Path) -> None:
    """A value is stored and read, and the server expires it."""
    with broker(tmp_path) as server, cache_with(server.url) as kept:
        kept.put("k", b"{}")

        assert (kept.get("k"), kept.get("other")) == (b"{}", None)
        assert server.client.execute_command("GET", "k") == b"{}"
        assert 59_000 < server.client.execute_command("PTTL", "k") <= 60_000


def test_redis_values_are_bounded_both_ways(tmp_path: Path) -> None:
    """No value above the limit is sent or read completely."""
    with broker(tmp_path) as server, cache_with(server.url) as kept:
        kept.put("k", bytes(MAX_VALUE_BYTES + 1))
        sent = server.client.execute_command("EXISTS", "k")
        server.client.execute_command("SET", "k", bytes(2**23))

        assert sent == 0
        assert len(kept.get("k") or b"") == MAX_VALUE_BYTES


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message) for record in caplog.records]


def test_a_killed_redis_is_a_miss_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill and a restart cause no error, one line each, and hits after the pause."""
    caplog.set_level(logging.INFO, "macule")
    now, tick = clock()
    with broker(tmp_path) as server, cache_with(server.url, tick) as kept:
        kept.put("k", b"{}")
        server.kill()
        dead = []
        for now[0] in range(100):
            dead.append(kept.get("k"))
            kept.put("k", b"{}")
        server.start()
        now[0] += LONGEST_PAUSE_S
        kept.put("k", b"{}")
        back = kept.get("k")

    assert (set(dead), back) == ({None}, b"{}")
    assert messages(caplog) == [
        ("WARNING", "the cache fails at GETRANGE: ConnectionError; answers are computed"),
        ("INFO", "the cache works again at GETRANGE"),
    ]
    assert PASSWORD not in caplog.text


def test_a_stopped_redis_is_asked_less_and_less(tmp_path: Path) -> None:
    """In five minutes of a stopped Redis few requests wait, none beyond the time-out."""
    now, tick = clock()
    waits = []
    with broker(tmp_path) as server, cache_with(server.url, tick) as kept:
        kept.put("k", b"{}")
        server.process.send_signal(signal.SIGSTOP)
        for now[0] in range(300):
            began = time.monotonic()
            assert kept.get("k") is None
            waits.append(time.monotonic() - began)
        server.process.send_signal(signal.SIGCONT)
        now[0] += LONGEST_PAUSE_S

        assert kept.get("k") == b"{}"
    assert max(waits) < TIMEOUT_S + 0.3
    assert 5 < sum(wait > TIMEOUT_S / 2 for wait in waits) < 16


def test_after_a_pause_one_request_tries() -> None:
    """Of twenty requests at once after the pause, one asks Redis."""
    now, tick = clock()
    kept = RedisCache("redis://127.0.0.1:1", 60, 100, tick)
    kept.get("k")
    now[0] = 1.0
    resting = [kept.server.is_paused() for _ in range(20)]

    assert resting == [False] + [True] * 19


def test_a_key_of_another_type_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    """After WRONGTYPE the next answer replaces the key."""
    with broker(tmp_path) as server, cache_with(server.url) as kept:
        server.client.execute_command("LPUSH", "k", "a")
        found = kept.get("k")
        kept.put("k", b"{}")

        assert (found, kept.get("k")) == (None, b"{}")


def test_a_full_redis_still_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With OOM under `noeviction` nothing new is stored, hits work, and one line is logged."""
    with (
        broker(tmp_path, "--maxmemory-policy", "noeviction") as server,
        cache_with(server.url) as kept,
    ):
        kept.put("k", b"{}")
        server.client.execute_command("CONFIG", "SET", "maxmemory", "1")
        for name in NAMES:
            kept.put(name, b"{}")
            assert kept.get(name) is None

        assert kept.get("k") == b"{}"
    assert messages(caplog) == [
        ("WARNING", "the cache fails at SET: OutOfMemoryError; answers are computed")
    ]


def test_any_failure_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    """An option that fails only on connecting is one line, not an error of each request."""
    with cache_with("redis://127.0.0.1:1/0?no_such_option=1") as kept:
        kept.put("k", b"{}")

        assert kept.get("k") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("wrong", ["password", "host"])
def test_a_wrong_address_is_a_miss_and_keeps_its_secrets(
    wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong password and an unknown host are one line, without password or host."""

    def elsewhere(server: Broker) -> str:
        if wrong == "password":
            return server.url.replace(PASSWORD, "guessed-by-me")
        return server.url.replace("127.0.0.1", "guessed-by-me" * 10)

    with broker(tmp_path) as server, cache_with(elsewhere(server)) as kept:
        kept.put("k", b"{}")

        assert kept.get("k") is None
    assert caplog.records
    assert "guessed" not in caplog.text
    assert PASSWORD not in caplog.text
