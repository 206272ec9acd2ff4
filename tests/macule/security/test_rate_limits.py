"""Rate limits compared with token buckets, in memory and Redis; and the client's address."""

import random
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macule import settings
from macule.caching.redis_client import RedisQuotas
from macule.errors import BadSetting, QuotaExceeded
from macule.security import client_address, rate_limits
from macule.security.rate_limits import MAX_CALLERS, MemoryLimiter, Policy, RateLimiter
from macule.settings import access
from support.broker import broker

HOUR, SECOND = Policy("hour", 5, 3600), Policy("second", 2, 1)
US = 1_000_000
T = TypeVar("T")


def shared(url: str, policies: tuple[Policy, ...]) -> RedisQuotas:
    return RedisQuotas(
        url, [(policy.name, policy.interval_us, policy.quota) for policy in policies]
    )


class Bucket:
    """A textbook token bucket in exact arithmetic."""

    def __init__(self, policy: Policy) -> None:
        self.most = policy.quota
        self.rate = Fraction(1, policy.interval_us)
        self.tokens, self.at = Fraction(policy.quota), 0

    def has_one(self, now: int) -> bool:
        self.tokens = min(Fraction(self.most), self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens >= 1


@given(
    st.lists(
        st.builds(
            Policy,
            st.just("a"),
            st.integers(1, 9),
            st.sampled_from(list(access.WINDOWS_S.values())),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 5 * US) | st.integers(0, 90_000 * US), max_size=60),
)
def test_it_equals_token_buckets(policies: list[Policy], waits: list[int]) -> None:
    """For any policies and pauses; a request that one policy rejects costs the others nothing."""
    now = [0]
    memory = MemoryLimiter(policies, lambda: now[0])
    buckets = [Bucket(policy) for policy in policies]
    for wait in [0, *waits]:
        now[0] += wait
        expected = min(bucket.has_one(now[0]) for bucket in buckets)
        for bucket in buckets:
            bucket.tokens -= expected

        assert memory.take("a")[0] is expected


def test_headers_show_the_remaining_quota() -> None:
    """Each policy and its state, as in draft-ietf-httpapi-ratelimit-headers-11."""
    meter = RateLimiter((HOUR, SECOND))
    state = meter.take("a")
    meter.take("a")
    with pytest.raises(QuotaExceeded) as caught:
        meter.take("a")

    policies = '"hour";q=5;w=3600, "second";q=2;w=1'
    assert state == {
        "RateLimit-Policy": policies,
        "RateLimit": '"hour";r=4;t=720, "second";r=1;t=1',
    }
    assert caught.value.headers() == {
        "Retry-After": "1",
        "RateLimit-Policy": policies,
        "RateLimit": '"second";r=0;t=1',
    }
    assert caught.value.figures == {"violated-policies": ["second"]}
    assert meter.take("b")["RateLimit"].startswith('"hour";r=4')


def test_retry_after_is_sufficient() -> None:
    """A request after Retry-After is accepted, and one a second earlier is not."""
    now = [0]
    memory = MemoryLimiter((HOUR,), lambda: now[0])
    for _ in range(HOUR.quota):
        memory.take("a")
    _, owed = memory.take("a")
    wait_s = int(rate_limits.quota_exceeded((HOUR,), owed).headers()["Retry-After"])
    now[0] = (wait_s - 1) * US
    early, _ = memory.take("a")
    now[0] = wait_s * US

    assert wait_s == 720
    assert (early, memory.take("a")[0]) == (False, True)


@pytest.mark.slow
def test_a_hundred_thousand_clients_take_three_megabytes() -> None:
    """The least recently seen clients are forgotten."""
    memory = MemoryLimiter((HOUR, SECOND))
    tracemalloc.start()
    try:
        for number in range(100_000):
            memory.take(f"2001:db8:{number:x}::/64")
        held_mb = tracemalloc.get_traced_memory()[0] / 2**20
    finally:
        tracemalloc.stop()

    assert len(memory.full_at) == MAX_CALLERS
    assert held_mb < 3.5


def count_accepted(take: Callable[[str], T], count: int = 64) -> list[T]:
    begin = threading.Barrier(count)

    def one(_: int) -> T:
        begin.wait(20)
        return take("a")

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_concurrent_requests_respect_the_quota() -> None:
    """Of 64 threads at once exactly as many as allowed are accepted."""
    memory = MemoryLimiter((HOUR,))

    found = count_accepted(lambda caller: memory.take(caller)[0])

    assert sum(found) == HOUR.quota


def test_instances_share_one_quota(tmp_path: Path) -> None:
    """64 threads of two meters on one real server respect one quota, and the keys expire."""
    policies = (Policy("day", 7, 86400), Policy("hour", 50, 3600))
    with broker(tmp_path) as server:
        meters = [shared(server.url, policies) for _ in range(2)]
        found = count_accepted(lambda caller: (meters[0].take(caller), meters[1].take(caller)))
        keys = server.client.keys("macule:1:quota:*")
        lapse = [server.client.pttl(key) for key in keys]
        for meter in meters:
            meter.server.close()

    answers = [answer for pair in found for answer in pair if answer]
    assert len(answers) == 128
    assert sum(admitted for admitted, _ in answers) == 7
    assert sorted(keys) == [b"macule:1:quota:day:a", b"macule:1:quota:hour:a"]
    assert all(0 < left_ms <= 86_400_000 for left_ms in lapse)


def test_the_script_equals_the_code_in_memory(tmp_path: Path) -> None:
    """The same requests get the same results, except for durations."""
    policies = (HOUR, Policy("day", 6, 86400))
    memory = MemoryLimiter(policies)
    with broker(tmp_path) as server:
        meter = shared(server.url, policies)
        asked = random.Random(0).choices("abc", k=40)
        pairs = [(memory.take(caller), meter.take(caller)) for caller in asked]
        meter.server.close()

    for (admitted, owed), found in pairs:
        assert found is not None
        assert found[0] is admitted
        assert found[1] == pytest.approx(owed, abs=5 * US)
    assert sum(admitted for (admitted, _), _ in pairs) == 15


def test_without_redis_each_process_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The quota applies without the server, one line says so, and invalid values do no harm."""
    with broker(tmp_path) as server:
        there = shared(server.url, (HOUR,))
        meter = RateLimiter((HOUR,), there)
        server.client.set("macule:1:quota:hour:b", "nonsense")
        server.client.lpush("macule:1:quota:hour:c", "nonsense")
        first = [meter.take(caller)["RateLimit"] for caller in "abc"]
        server.kill()
        for _ in range(HOUR.quota):
            meter.take("a")
        with pytest.raises(QuotaExceeded):
            meter.take("a")
        there.server.close()

    assert first == ['"hour";r=4;t=720'] * 3
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(";")[0].split(": ")[1] for line in lines] == [
        "ResponseError",  # "c" is a list there
        "ConnectionError",
    ]
    assert "each process counts for itself" in lines[-1]


@pytest.mark.parametrize(
    "text",
    ["60", "60/week", "0/hour", "-1/hour", "x/hour", "1/hour,2/hour", "2000000/day", "½/day"],
)
def test_an_invalid_quota_prevents_the_start(text: str) -> None:
    """BadSetting names the variable, the value and what was expected."""
    with pytest.raises(BadSetting, match="QUOTA='"):
        settings.read({"QUOTA": text})


def test_a_quota_has_numbers_and_windows() -> None:
    """Spaces and an empty part are ignored."""
    chosen = settings.read({"QUOTA": " 100/hour, 10/second ,"})

    assert chosen.quota == (Policy("hour", 100, 3600), Policy("second", 10, 1))
    assert settings.read({}).quota == ()


TRUSTED = "10.0.0.0/8,2001:db8:1::/48"


@pytest.mark.parametrize(
    ("peer", "forwarded", "who"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # the sender is not a proxy
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # the first is the client's own
        ("10.0.0.1", "198.51.100.1, 10.9.9.9, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:1::7", "2001:db8:ff:1:2:3:4:5", "2001:db8:ff:1::/64"),
        ("2001:db8:ff:1::1", "", "2001:db8:ff:1::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("::1%eth0", "", "::/64"),
        ("", "198.51.100.1", "unknown"),
        ("unix:", "", "unknown"),
    ],
)
def test_an_address_is_from_the_last_trusted_proxy(peer: str, forwarded: str, who: str) -> None:
    """X-Forwarded-For is read from its end while the sender of each entry is trusted."""
    trusted = settings.read({"TRUSTED_PROXIES": TRUSTED}).trusted_proxies

    assert client_address.identify(peer, forwarded, trusted) == who
    assert client_address.identify(peer, forwarded, ()) == client_address.identify(peer, "", ())


@pytest.mark.parametrize("text", ["*", "localhost", "10.0.0.1/8", "10.0.0.0/33"])
def test_an_invalid_proxy_network_prevents_the_start(text: str) -> None:
    """A name, a star and a network with host bits are rejected."""
    with pytest.raises(BadSetting, match="TRUSTED_PROXIES='"):
        settings.read({"TRUSTED_PROXIES": text})
