"""Parsers of settings: each takes a variable's text and returns its value.

They raise ValueError, whose text says what is expected, and never the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from urllib.parse import parse_qsl, urlsplit

from macule.settings import urls

MAX_INTEGER = 10**9  # prevents overflows in libraries
NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?|\.[0-9]{1,9}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
LEVELS = ("debug", "info", "warning", "error", "critical")
OTHER_LEVELS = {"warn": "warning", "err": "error", "fatal": "critical"}
# TLS options only: redis-py would pass any other option to a constructor.
REDIS_OPTIONS = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
}
DEFAULT_PORTS = {"http": 80, "https": 443}


def integer(least: int, most: int = MAX_INTEGER) -> Callable[[str], int]:
    """Return a parser of digits, without sign, space or underscore."""
    limit = f", at most {most}" if most < MAX_INTEGER else ""
    expected = f"a whole number of at least {least}{limit}"

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 20
        if not digits or not least <= int(text) <= most:
            raise ValueError(expected)
        return int(text)

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return a parser of a decimal number without exponent."""

    def parse(text: str) -> float:
        if not NUMBER.fullmatch(text) or not least <= float(text) <= most:
            raise ValueError(f"a number of seconds, {least:g} to {most:.0f}")
        return float(text)

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser of one of *words*, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(" or ".join(words))
        return text.lower()

    return parse


def boolean(text: str) -> bool:
    """Parse true, 1, yes, on, false, 0, no or off, in any case."""
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError("true or false")
    return text.lower() in TRUE


def log_level(text: str) -> str:
    """Parse a level of `logging`; common other spellings are accepted."""
    name = OTHER_LEVELS.get(text.lower(), text.lower())
    if name not in LEVELS:
        raise ValueError(" or ".join(LEVELS))
    return name.upper()


def rising_fractions(text: str) -> tuple[float, ...]:
    """Parse four increasing numbers, 0 to 1."""
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(float(part) for part in parts if NUMBER.fullmatch(part))
    is_rising = all(low < high for low, high in pairwise((0.0, *numbers)))
    if not len(parts) == len(numbers) == 4 or not is_rising or numbers[-1] > 1:
        raise ValueError("four increasing fractions, 0 to 1, such as 0.3,0.7,0.88,0.98")
    return numbers


def sha256(text: str) -> str:
    """Parse a SHA-256 in hexadecimal; return it in lower case."""
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError("64 hexadecimal digits")
    return text.lower()


def folder(text: str) -> str:
    """Parse a path; `~` is expanded, because no shell does that for settings."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError("a path: there is no such user's home folder")
    return path


def host(text: str) -> str:
    """Parse a host to listen on; an IPv6 address gets brackets, as a port follows it."""
    from ipaddress import IPv6Address

    address = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        IPv6Address(address)
        return f"[{address}]"
    except ValueError:
        if HOST.fullmatch(text):
            return text
    raise ValueError("an address or a name to listen on, such as 0.0.0.0, :: or localhost")


def http_url(text: str) -> str:
    """Parse the base URL of an HTTP service; trailing slashes are removed."""
    parts = urls.split(text)
    if not parts or parts.scheme not in DEFAULT_PORTS or set("@?#") & set(text):
        raise ValueError("a URL such as https://predict.example, without a user, ? or #")
    return text.rstrip("/")


def origins(text: str) -> tuple[str, ...]:
    """Parse origins; return them as browsers send them: in lower case, without a default port.

    Source: RFC 6454, section 6.2.
    """
    return tuple("*" if part == "*" else _origin(part) for part in split_list(text, "origins"))


def split_list(text: str, what: str) -> list[str]:
    """Split a comma-separated list of at least one item; an empty one would disable its setting."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"a list of {what}: it has none")
    return parts


def redis_url(*schemes: str) -> Callable[[str], str]:
    """Return a parser of Redis URLs that redis-py and Celery interpret alike."""
    shape = f"{schemes[0]}://[user:password@]host[:port][/database]"
    expected = f"{shape} ({' or '.join(schemes)}; %XX for other signs in a password)"

    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            has_port = parts.port != 0
        except ValueError:  # the port is not a number, for example after a password with a slash
            raise ValueError(expected) from None
        options = parse_qsl(parts.query, keep_blank_values=True)
        given = dict(options)
        if parts.scheme not in schemes or not has_port or not _is_printable(text) or parts.fragment:
            raise ValueError(expected)
        if len(given) < len(options):
            raise ValueError(f"{shape}: an option is repeated")
        if parts.scheme == "unix":
            _check_options(given, {"db": ()})
            if not parts.path.strip("/") or not given.get("db", "0").isdecimal():
                raise ValueError("unix:///path/of/the/socket[?db=NUMBER]")
        else:
            _check_options(given, REDIS_OPTIONS if parts.scheme == "rediss" else {})
            if not parts.hostname or not re.fullmatch("(/[0-9]{0,5})?", parts.path):
                raise ValueError(expected)
        return text

    return parse


def header_value(text: str) -> str:
    """Parse printable ASCII without spaces."""
    if not _is_printable(text):
        raise ValueError("a key: it has spaces or characters that a header may not have")
    return text


def webhook_secrets(text: str) -> tuple[str, ...]:
    """Parse secrets of Standard Webhooks, the newest first."""
    from base64 import b64decode
    from binascii import Error

    secrets = split_list(text, "secrets")
    for number, secret in enumerate(secrets, 1):
        try:
            size = len(b64decode(secret.removeprefix("whsec_"), validate=True))
        except Error:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError(
                f"a list of secrets from `macule key webhook`: number {number} is not whsec_ and "
                "base64 of 24 to 64 bytes"
            )
    return tuple(secrets)


def _origin(text: str) -> str:
    parts = urls.split(text)
    is_http = parts and parts.scheme in DEFAULT_PORTS and not set("@?#") & set(text)
    if not parts or not is_http or parts.path.strip("/"):
        raise ValueError("a list of origins such as https://app.example, without a path, or *")
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"


def _check_options(given: Mapping[str, str], options: Mapping[str, tuple[str, ...]]) -> None:
    for name, value in given.items():
        if name not in options or not value:
            allowed = f"only {', '.join(options)}" if options else "none"
            raise ValueError(f"a URL with known options: this scheme takes {allowed}")
        if options[name] and value.lower() not in options[name]:
            raise ValueError(f"a URL whose {name} is {' or '.join(options[name])}")


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
