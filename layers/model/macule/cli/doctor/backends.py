"""Redis or Valkey, asked as a service would: the cache at REDIS_URL, the queue at BROKER_URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult

if TYPE_CHECKING:
    from redis import Redis

TIMEOUT_S = 3.0
TEST_KEY_TTL_MS = 10_000  # of what is written to try it
PERSISTENCE_ADVICE = "keep predictions: set appendonly yes and maxmemory-policy noeviction"


def check_cache(url: str) -> CheckResult:
    """Write an answer and read it back, as the cache and the shared quota do."""
    import redis

    key = f"macule:doctor:{os.urandom(8).hex()}"
    try:
        with _client(url) as server:
            server.set(key, b"1", px=TEST_KEY_TTL_MS)
            kept = server.get(key)
            server.delete(key)
    except (redis.RedisError, OSError, ValueError) as error:
        what = f"REDIS_URL at {_redact(url)} {_describe_error(error)}: nothing is kept there"
        return CheckResult(FAIL, "cache", what)
    if kept != b"1":
        return CheckResult(
            FAIL, "cache", f"REDIS_URL at {_redact(url)} does not keep what it takes"
        )
    return CheckResult(OK, "cache", f"{_redact(url)} keeps answers")


def check_broker(url: str) -> CheckResult:
    """Connect, and see whether what waits there outlives a full memory and a restart."""
    import redis

    try:
        with _client(url) as server:
            about = _read_info(server)
            saves = _read_snapshot_config(server)
    except (redis.RedisError, OSError, ValueError) as error:
        what = f"BROKER_URL at {_redact(url)} {_describe_error(error)}: POST /predictions would answer 503"
        return CheckResult(FAIL, "broker", what)
    return assess_broker(_redact(url), about, saves)


def assess_broker(place: str, about: dict[str, Any], saves: str | None) -> CheckResult:
    """Judge a broker by its INFO and its `save`; None where it does not tell that one."""
    policy = str(about.get("maxmemory_policy", ""))
    if policy and policy != "noeviction":
        what = f"{place} drops what waits when its memory is full (maxmemory-policy {policy})"
        return CheckResult(FAIL, "broker", f"{what}. It must {PERSISTENCE_ADVICE}")
    if str(about.get("aof_enabled", "1")) != "1":
        if saves == "":
            what = f"{place} loses what waits when it restarts: it writes nothing to a disk"
            return CheckResult(FAIL, "broker", f"{what}. It must {PERSISTENCE_ADVICE}")
        what = f"{place} loses what came since its last snapshot when it restarts"
        return CheckResult(WARN, "broker", f"{what}. To {PERSISTENCE_ADVICE}")
    return CheckResult(OK, "broker", f"{place} keeps what waits")


def _client(url: str) -> Redis:
    import redis

    made: Redis = redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
    return made


def _read_info(server: Redis) -> dict[str, Any]:
    """Ask what a user of the queue may ask: managed services forbid CONFIG."""
    about: Any = {}
    for section in ("memory", "persistence"):
        about |= server.info(section)
    return dict(about)


def _read_snapshot_config(server: Redis) -> str | None:
    import redis

    try:
        found: Any = server.config_get("save")
        return str(found.get("save", ""))
    except redis.ResponseError:
        return None


def _redact(url: str) -> str:
    """Show an address without its user, its password and its options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _describe_error(error: Exception) -> str:
    """Say what failed in words of ours: a client's own may hold the address."""
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "refuses this user or password"
    if isinstance(error, redis.ResponseError):
        return f"answers {str(error).partition(' ')[0]}"  # such as NOAUTH, OOM, READONLY
    if isinstance(error, redis.TimeoutError):
        return f"does not answer within {TIMEOUT_S:g} s"
    cause = error.__cause__ or error.__context__ or error
    return f"cannot be reached ({getattr(cause, 'strerror', None) or type(cause).__name__})"
