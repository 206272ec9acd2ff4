"""API keys: creation, storage as hashes, and authentication of a request's headers.

A key is 32 random bytes, so its plain SHA-256 cannot be reversed. A slow hash, as passwords need,
would only let unauthenticated callers use CPU time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock

from macule.errors import BadSetting, Forbidden, Unauthorized
from macule.settings import access
from macule.settings.access import KEY_NAME, KeyEntry

log = logging.getLogger("macule")

PREFIX = "mk_"  # lets secret scanners recognize a leaked key
WEBHOOK_PREFIX = "whsec_"
KEY_BYTES = 32
RELOAD_INTERVAL_S = 1.0  # between two checks of the file
HEADER, SCHEME = "x-api-key", "bearer"


class KeyStore:
    """The valid keys, from pairs or from a file that may change.

    Args:
      source: `name:hash` pairs, comma-separated; or a path, which contains a "/".
    Raises: BadSetting, whose text contains nothing of the source.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = source if "/" in source else None
        self._clock = clock
        self._lock = Lock()
        self._checked_at = clock()
        self._loaded_state = _file_state(self._path) if self._path else None
        self._fault = ""
        self.entries = _read(self._path) if self._path else access.parse_keys(source.split(","))

    def authenticate(self, headers: Mapping[str, str]) -> str:
        """Return the name of the key in *headers*.

        Raises: Unauthorized, Forbidden.
        """
        key = _key_from_headers(headers)
        if not key:
            why = "This route needs a key. Send Authorization: Bearer KEY, or X-API-Key: KEY."
            raise Unauthorized(why)
        if self._path:
            self._reload_if_changed(self._path)
        digest, match = _digest(key), None
        from hmac import compare_digest

        for entry in self.entries:  # all of them, for constant time
            if compare_digest(entry.digest, digest):
                match = entry
        if match is None:
            raise Unauthorized("This key is unknown.", wrong=True)
        if match.revoked:
            raise Forbidden("This key has been revoked. Ask the operator for another.")
        return match.name

    def _reload_if_changed(self, path: str) -> None:
        """Read the file again if it changed; if it cannot be read, the current keys stay."""
        with self._lock:
            now = self._clock()
            if now - self._checked_at < RELOAD_INTERVAL_S:
                return
            self._checked_at = now
            state = _file_state(path)
            if state == self._loaded_state and not self._fault:
                return
            self._loaded_state = state
            try:
                self.entries, fault = _read(path), ""
            except BadSetting as error:
                fault = str(error)
            changed, self._fault = fault != self._fault, fault
        if not fault:
            log.info("API_KEYS: reloaded, %d keys", len(self.entries))
        elif changed:
            log.warning("%s The %d current keys stay valid.", fault, len(self.entries))


@cache
def key_store(source: str) -> KeyStore:
    return KeyStore(source)


def create_key(name: str) -> tuple[str, str]:
    """Return a new key for *name*, and its `name:hash` pair for API_KEYS.

    Raises: BadSetting.
    """
    from base64 import urlsafe_b64encode

    if not KEY_NAME.fullmatch(name):
        raise BadSetting("A key's name is 1 to 64 letters, digits and ._- only.")
    key = PREFIX + urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip("=")
    return key, f"{name}:{_digest(key).hex()}"


def create_webhook_secret() -> str:
    """Return a new secret for WEBHOOK_SECRETS, as in Standard Webhooks 1.0.0."""
    from base64 import b64encode

    return WEBHOOK_PREFIX + b64encode(os.urandom(KEY_BYTES)).decode()


def _key_from_headers(headers: Mapping[str, str]) -> str:
    """Return the key in *headers*, "" if there is none.

    X-API-Key takes precedence: the authorization of Cloud Run or Lambda uses the other header.
    """
    if key := headers.get(HEADER, "").strip():
        return key
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == SCHEME else ""


def _digest(key: str) -> bytes:
    from hashlib import sha256

    return sha256(key.encode(errors="replace")).digest()


def _read(path: str) -> tuple[KeyEntry, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            entries = access.parse_keys(file.readlines())
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not text"
        raise BadSetting(f"API_KEYS: the file cannot be read: {reason}.") from None
    if not entries:
        log.warning("API_KEYS: the file has no key, so every caller gets a 401")
    return entries


def _file_state(path: str) -> tuple[int, int, int] | None:
    """Return the time, size and inode of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
