"""API keys: made, kept as hashes, and found again by what a request carries.

A key is 32 random bytes, so its plain SHA-256 cannot be guessed back: a slow hash, as passwords
need, would only let strangers spend our time.
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

PREFIX = "mk_"  # so that a key that lies about is known for one
WEBHOOK_PREFIX = "whsec_"
KEY_BYTES = 32
RELOAD_INTERVAL_S = 1.0  # between two looks at a file
HEADER, SCHEME = "x-api-key", "bearer"


class KeyStore:
    """The keys that are let in: pairs, or those of a file that may change.

    Args:
      source: `name:hash` pairs, comma-separated; or a path, which has a "/".
    Raises: BadSetting, which repeats nothing of what it read.
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
        """Return the name of the key that *headers* carry.

        Raises: Unauthorized, Forbidden.
        """
        key = _key_from_headers(headers)
        if not key:
            raise Unauthorized("This needs a key: Authorization: Bearer KEY, or X-API-Key: KEY.")
        if self._path:
            self._reload_if_changed(self._path)
        digest, found = _digest(key), None
        from hmac import compare_digest

        for entry in self.entries:  # all of them: how long it takes tells nothing
            if compare_digest(entry.digest, digest):
                found = entry
        if found is None:
            raise Unauthorized("This key is not known here.", wrong=True)
        if found.revoked:
            raise Forbidden("This key has been revoked. Ask the operator for another.")
        return found.name

    def _reload_if_changed(self, path: str) -> None:
        """Read the file anew if it changed; what cannot be read leaves the keys as they are."""
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
            log.info("API_KEYS: read again, %d keys", len(self.entries))
        elif changed:
            log.warning("%s The %d keys from before stay.", fault, len(self.entries))


@cache
def key_store(source: str) -> KeyStore:
    """Return this process's keys of *source*."""
    return KeyStore(source)


def create_key(name: str) -> tuple[str, str]:
    """Make a key for *name*; return it, and the pair that API_KEYS keeps of it.

    Raises: BadSetting.
    """
    from base64 import urlsafe_b64encode

    if not KEY_NAME.fullmatch(name):
        raise BadSetting("A key's name is 1 to 64 letters, digits and ._- alone.")
    key = PREFIX + urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip("=")
    return key, f"{name}:{_digest(key).hex()}"


def create_webhook_secret() -> str:
    """Make one of WEBHOOK_SECRETS, as Standard Webhooks 1.0.0 has them."""
    from base64 import b64encode

    return WEBHOOK_PREFIX + b64encode(os.urandom(KEY_BYTES)).decode()


def _key_from_headers(headers: Mapping[str, str]) -> str:
    """Return the key in *headers*, "" without one.

    X-API-Key goes first: behind Cloud Run's or Lambda's own authorisation the other header is the
    platform's.
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
        why = (isinstance(error, OSError) and error.strerror) or "it is no text"
        raise BadSetting(f"API_KEYS: the file cannot be read: {why}.") from None
    if not entries:
        log.warning("API_KEYS: the file has no key, so nobody is let in")
    return entries


def _file_state(path: str) -> tuple[int, int, int] | None:
    """Return what changes with a file; None where there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino
