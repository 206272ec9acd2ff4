"""`macule doctor` connects to real backends and fails on configurations that lose data."""

from pathlib import Path

import pytest
from macule.cli.doctor import backends
from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult
from support.broker import PASSWORD, Broker, broker
from support.upstreams import Upstream, closed_port

CHECKS = [backends.check_cache, backends.check_broker]


@pytest.fixture
def server(tmp_path: Path) -> Broker:
    """Run a server that persists jobs, as docs/deploy.md requires."""
    with broker(tmp_path, "--maxmemory-policy", "noeviction") as running:
        yield running


def assert_result(finding: CheckResult, level: str, *words: str) -> None:
    """Compare a result with the expected text; it never contains the password."""
    assert finding.level == level, finding
    assert all(word in finding.text for word in words), finding
    assert PASSWORD not in finding.text


def test_a_documented_setup_passes(server: Broker) -> None:
    """Cache and broker are ok, and nothing remains in the database."""
    for check in CHECKS:
        assert_result(check(server.url), OK, f"redis://127.0.0.1:{server.port}/0")

    assert server.client.dbsize() == 0


@pytest.mark.parametrize("check", CHECKS)
def test_a_wrong_password_fails(server: Broker, check: object) -> None:
    """A wrong password, a missing one and an unknown database fail."""
    place = f"127.0.0.1:{server.port}"

    assert_result(check(f"redis://:another@{place}/0"), FAIL, "rejects this user or password")
    assert_result(check(f"redis://{place}/0"), FAIL, "rejects this user or password")
    assert_result(check(f"redis://:{PASSWORD}@{place}/999"), FAIL, "answers")


@pytest.mark.parametrize("check", CHECKS)
def test_an_unreachable_backend_fails(other: Upstream, check: object) -> None:
    """A closed port, an unknown host and another kind of server fail within seconds."""
    assert_result(check(f"redis://127.0.0.1:{closed_port()}"), FAIL, "cannot be reached")
    assert_result(check("redis://name.invalid"), FAIL, "cannot be reached")
    assert_result(check(other.url.replace("http", "redis")), FAIL)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_broker_that_evicts_fails(tmp_path: Path, policy: str) -> None:
    """An evicting broker would lose accepted predictions and fails; an evicting cache passes."""
    with broker(tmp_path, "--maxmemory-policy", policy) as server:
        assert_result(backends.check_broker(server.url), FAIL, policy, "noeviction")
        assert_result(backends.check_cache(server.url), OK)


@pytest.mark.parametrize(
    ("save", "level", "expected"),
    [("", FAIL, "writes nothing to disk"), ("60 1", WARN, "since its last snapshot")],
)
def test_a_broker_without_persistence_is_reported(
    tmp_path: Path, save: str, level: str, expected: str
) -> None:
    """Without files it fails; with snapshots alone a warning says that minutes may be lost."""
    with broker(tmp_path, "--appendonly", "no", "--save", save) as server:
        assert_result(backends.check_broker(server.url), level, expected, "appendonly yes")


def test_config_permission_is_not_needed(server: Broker) -> None:
    """Managed services forbid CONFIG; the check uses INFO."""
    allowed = ["on", ">abc", "~*", "+@all", "-config"]
    server.client.execute_command("ACL", "SETUSER", "app", *allowed)

    assert_result(backends.check_broker(f"redis://app:abc@127.0.0.1:{server.port}/0"), OK)


def test_a_read_only_cache_fails(server: Broker) -> None:
    """The line names the missing permission."""
    server.client.execute_command("ACL", "SETUSER", "reader", "on", ">abc", "~*", "+get")

    assert_result(
        backends.check_cache(f"redis://reader:abc@127.0.0.1:{server.port}/0"),
        FAIL,
        "rejects this user or password",
    )
