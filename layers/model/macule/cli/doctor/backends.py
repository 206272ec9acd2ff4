"""Checks of Redis or Valkey: the cache at REDIS_URL, the queue at BROKER_URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult

if TYPE_CHECKING:
    from redis import Redis

TIMEOUT_S = 3.0
TEST_KEY_TTL_MS = 10_000
PERSISTENCE_ADVICE = "keep predictions: set appendonly yes and maxmemory-policy noeviction"


def check_cache(url: str) -> CheckResult:
    """Write a test key and read it back, as the cache and the shared rate limit do."""
    import redis

    key = f"macule:doctor:{os.urandom(8).hex()}"
    try:
        with _client(url) as server:
            server.set(key, b"1", px=TEST_KEY_TTL_MS)
            stored = server.get(key)
            server.delete(key)
    except (redis.RedisError, OSError, ValueError) as error:
        what = f"REDIS_URL at {_redact(url)} {_describe_error(error)}: responses are not cached"
        return CheckResult(FAIL, "cache", what)
    if stored != b"1":
        return CheckResult(FAIL, "cache", f"REDIS_URL at {_redact(url)} loses written keys")
    return CheckResult(OK, "cache", f"{_redact(url)} stores responses")


def check_broker(url: str) -> CheckResult:
    """Check that queued predictions survive a full memory and a restart."""
    import redis

    try:
        with _client(url) as server:
            info = _read_info(server)
            save = _read_snapshot_config(server)
    except (redis.RedisError, OSError, ValueError) as error:
        text = f"BROKER_URL at {_redact(url)} {_describe_error(error)}"
        return CheckResult(FAIL, "broker", f"{text}: POST /predictions would answer 503")
    return assess_broker(_redact(url), info, save)


def assess_broker(address: str, info: dict[str, Any], save: str | None) -> CheckResult:
    """Assess a broker by its INFO and its `save` setting; None if the setting is unknown."""
    policy = str(info.get("maxmemory_policy", ""))
    if policy and policy != "noeviction":
        what = f"{address} drops predictions when its memory is full (maxmemory-policy {policy})"
        return CheckResult(FAIL, "broker", f"{what}. It must {PERSISTENCE_ADVICE}")
    if str(info.get("aof_enabled", "1")) != "1":
        if save == "":
            what = f"{address} loses predictions when it restarts: it writes nothing to disk"
            return CheckResult(FAIL, "broker", f"{what}. It must {PERSISTENCE_ADVICE}")
        what = f"{address}, on a restart, loses predictions since its last snapshot"
        return CheckResult(WARN, "broker", f"{what}. To {PERSISTENCE_ADVICE}")
    return CheckResult(OK, "broker", f"{address} keeps predictions")


def _client(url: str) -> Redis:
    import redis

    client: Redis = redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
    )
    return client


def _read_info(server: Redis) -> dict[str, Any]:
    """Read INFO, because managed services forbid CONFIG."""
    info: Any = {}
    for section in ("memory", "persistence"):
        info |= server.info(section)
    return dict(info)


def _read_snapshot_config(server: Redis) -> str | None:
    """Return the `save` setting; None if CONFIG is forbidden."""
    import redis

    try:
        found: Any = server.config_get("save")
        return str(found.get("save", ""))
    except redis.ResponseError:
        return None


def _redact(url: str) -> str:
    """Return *url* without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _describe_error(error: Exception) -> str:
    """Describe *error* without its message, which can contain the URL with the password."""
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "rejects this user or password"
    if isinstance(error, redis.ResponseError):
        return f"answers {str(error).partition(' ')[0]}"  # such as NOAUTH, OOM, READONLY
    if isinstance(error, redis.TimeoutError):
        return f"does not answer within {TIMEOUT_S:g} s"
    cause = error.__cause__ or error.__context__ or error
    return f"cannot be reached ({getattr(cause, 'strerror', None) or type(cause).__name__})"
