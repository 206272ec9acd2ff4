"""What is said while the broker cannot be used: its address, the cause, one line a minute."""

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

PAUSE_S = 60.0  # between two lines of the same cause


class Outage:
    """Logs that the server at *address* cannot be used, and that it can again."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._lock = Lock()
        self._logged_at: dict[str, float] = {}  # by cause
        self._lasts = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what the client raises into QueueUnavailable, and log why."""
        try:
            yield
        except redis.RedisError as error:  # its text may have an address, which no caller is shown
            self._log(cause(error))
            raise QueueUnavailable(
                "The queue of predictions cannot be used now. Try again."
            ) from error
        if self._lasts:
            self._lasts = False
            facts = {"event": "broker_back"}
            log.info("the broker %s can be used again", self._address, extra={"facts": facts})

    def _log(self, why: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._logged_at.get(why, -PAUSE_S) < PAUSE_S:
                return
            self._logged_at[why] = now
            self._lasts = True
        facts = {"event": "broker_fails"}
        log.warning("the broker %s cannot be used: %s", self._address, why, extra={"facts": facts})


def address(pool: redis.BlockingConnectionPool) -> str:
    """Name the server of a pool, without user and password."""
    known = pool.connection_kwargs
    return str(known.get("path") or f"{known.get('host')}:{known.get('port')}")


def cause(error: BaseException) -> str:
    """Say why a server cannot be used, in words that hold neither password nor arguments."""
    chain = [error]
    while below := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(below)
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
    return _refusal(error)


def _refusal(error: BaseException) -> str:
    """Name what the server or the client says; of a server's own text what is known to be safe."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError):
        needless = "without any password" in text
        missing = "required" in text
        why = "it has no password" if needless else "wrong user or password"
        return "authentication fails: " + ("a password is needed" if missing else why)
    if "DB index" in text:
        return "it has no database of that number"
    if "closed by server" in text:
        return "it closes the connection; does it want rediss:// (TLS)?"
    return type(error).__name__
