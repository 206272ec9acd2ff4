"""Logging of a broker outage: address and cause, one line a minute."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import redis

from macule.errors import QueueUnavailable

log = logging.getLogger("macule")

LOG_INTERVAL_S = 60.0  # between two lines with the same cause


class Outage:
    """Logs that the server at *address* is unavailable, and when it is available again."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._lock = Lock()
        self._logged_at: dict[str, float] = {}  # by cause
        self._ongoing = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Log errors of the client and turn them into QueueUnavailable."""
        try:
            yield
        except redis.RedisError as error:  # its text may contain the address: not for callers
            self._log(describe_error(error))
            why = "The prediction queue is unavailable. Try again later."
            raise QueueUnavailable(why) from error
        if self._ongoing:
            self._ongoing = False
            facts = {"event": "broker_back"}
            log.info("the broker %s can be used again", self._address, extra={"facts": facts})

    def _log(self, why: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._logged_at.get(why, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
                return
            self._logged_at[why] = now
            self._ongoing = True
        facts = {"event": "broker_fails"}
        log.warning("the broker %s cannot be used: %s", self._address, why, extra={"facts": facts})


def address(pool: redis.BlockingConnectionPool) -> str:
    """Return the address of a pool's server, without user and password."""
    options = pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")


def describe_error(error: BaseException) -> str:
    """Describe why the server cannot be used, without password or arguments."""
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    for one in reversed(chain):
        if isinstance(one, ssl.SSLError):
            return f"TLS fails: {one.reason or 'unknown'}"
        if isinstance(one, socket.gaierror):
            return f"its name cannot be resolved: {one.strerror}"
        if isinstance(one, TimeoutError) and "handshake" in str(one):
            return "TLS fails: it does not answer the handshake; is it redis:// without s?"
        if isinstance(one, TimeoutError | redis.TimeoutError):
            return "it does not answer in time"
        if isinstance(one, OSError) and one.errno:
            return os.strerror(one.errno)
    return _describe_reply(error)


def _describe_reply(error: BaseException) -> str:
    """Describe an error reply, using only text that is known to hold no secret."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError):
        unneeded = "without any password" in text
        missing = "required" in text
        why = "it has no password" if unneeded else "wrong user or password"
        return "authentication fails: " + ("a password is needed" if missing else why)
    if "DB index" in text:
        return "it has no database of that number"
    if "closed by server" in text:
        return "it closes the connection; does it want rediss:// (TLS)?"
    return type(error).__name__
