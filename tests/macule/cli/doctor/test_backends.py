"""`macule doctor` asks real backends: what would lose answers or predictions fails."""

from pathlib import Path

import pytest
from macule.cli.doctor import backends
from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult
from support.broker import PASSWORD, Broker, broker
from support.upstreams import Peer, closed_port

CHECKS = [backends.check_cache, backends.check_broker]


@pytest.fixture
def server(tmp_path: Path) -> Broker:
    """A server that keeps what waits, as docs/deploy.md asks for."""
    with broker(tmp_path, "--maxmemory-policy", "noeviction") as running:
        yield running


def told(finding: CheckResult, level: str, *words: str) -> None:
    """Hold a finding against what it must say; it never has the password."""
    assert finding.level == level, finding
    assert all(word in finding.text for word in words), finding
    assert PASSWORD not in finding.text


def test_what_is_set_up_as_documented_is_well(server: Broker) -> None:
    """Both are ok, and nothing is left in the database."""
    for check in CHECKS:
        told(check(server.url), OK, f"redis://127.0.0.1:{server.port}/0")

    assert server.client.dbsize() == 0


@pytest.mark.parametrize("check", CHECKS)
def test_a_wrong_password_fails(server: Broker, check: object) -> None:
    """So does none at all, and a database that there is not."""
    place = f"127.0.0.1:{server.port}"

    told(check(f"redis://:another@{place}/0"), FAIL, "rejects this user or password")
    told(check(f"redis://{place}/0"), FAIL, "rejects this user or password")
    told(check(f"redis://:{PASSWORD}@{place}/999"), FAIL, "answers")


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_not_there_fails(other: Peer, check: object) -> None:
    """A closed port, a name that nobody has, a server of another kind: each in seconds."""
    told(check(f"redis://127.0.0.1:{closed_port()}"), FAIL, "cannot be reached")
    told(check("redis://name.invalid"), FAIL, "cannot be reached")
    told(check(other.url.replace("http", "redis")), FAIL)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_broker_that_evicts_fails(tmp_path: Path, policy: str) -> None:
    """A prediction that was taken in would vanish when memory is full; a cache may do that."""
    with broker(tmp_path, "--maxmemory-policy", policy) as server:
        told(backends.check_broker(server.url), FAIL, policy, "noeviction")
        told(backends.check_cache(server.url), OK)


@pytest.mark.parametrize(
    ("save", "level", "said"),
    [("", FAIL, "writes nothing to disk"), ("60 1", WARN, "since its last snapshot")],
)
def test_a_broker_without_a_journal_is_told(
    tmp_path: Path, save: str, level: str, said: str
) -> None:
    """Without any file it fails; with snapshots alone the last minutes may be lost."""
    with broker(tmp_path, "--appendonly", "no", "--save", save) as server:
        told(backends.check_broker(server.url), level, said, "appendonly yes")


def test_a_user_who_may_not_configure_is_enough(server: Broker) -> None:
    """Managed services forbid CONFIG; what INFO says is judged."""
    allowed = ["on", ">abc", "~*", "+@all", "-config"]
    server.client.execute_command("ACL", "SETUSER", "app", *allowed)

    told(backends.check_broker(f"redis://app:abc@127.0.0.1:{server.port}/0"), OK)


def test_a_cache_that_may_not_be_written_fails(server: Broker) -> None:
    """Such a user is told by what it lacks."""
    server.client.execute_command("ACL", "SETUSER", "reader", "on", ">abc", "~*", "+get")

    told(
        backends.check_cache(f"redis://reader:abc@127.0.0.1:{server.port}/0"),
        FAIL,
        "rejects this user or password",
    )
