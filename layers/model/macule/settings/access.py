"""API keys, rate limits and trusted proxies, as their settings write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from macule.errors import BadSetting

Network = IPv4Network | IPv6Network
WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
MAX_QUOTA = 1_000_000
US_PER_S = 1_000_000  # microseconds in a second: whole numbers add up alike in Python and Lua
KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_ENTRY = re.compile(rf"({KEY_NAME.pattern}):([0-9a-fA-F]{{64}})(:revoked)?")


class KeyEntry(NamedTuple):
    """Whose a key is, and the SHA-256 of it."""

    name: str
    digest: bytes
    revoked: bool


class Policy(NamedTuple):
    """A number of requests in a window; its name is the window's."""

    name: str
    quota: int
    window_s: int

    @property
    def interval_us(self) -> int:
        """The time in which one request's worth comes back."""
        return self.window_s * US_PER_S // self.quota


def parse_keys(lines: Iterable[str]) -> tuple[KeyEntry, ...]:
    """Read `name:hash` or `name:hash:revoked` of each line; # begins a comment.

    A name may have several keys, so that one can take over from another.
    Raises: BadSetting, by the line's number alone.
    """
    entries: dict[bytes, KeyEntry] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = KEY_ENTRY.fullmatch(text)
        if not match:
            raise BadSetting(f"API_KEYS: number {number} is not name:sha256 (`macule key new`).")
        entry = KeyEntry(match[1], bytes.fromhex(match[2]), bool(match[3]))
        if entry.digest in entries:
            raise BadSetting(f"API_KEYS: number {number} repeats a hash.")
        entries[entry.digest] = entry
    return tuple(entries.values())


def parse_rate_limits(text: str) -> tuple[Policy, ...]:
    """Read "60/minute" or "1000/hour,10/second".

    Raises: ValueError, saying what was expected.
    """
    policies = []
    for part in filter(None, map(str.strip, text.split(","))):
        number, _, unit = (word.strip() for word in part.partition("/"))
        whole = number.isascii() and number.isdigit() and 1 <= int(number[:8]) <= MAX_QUOTA
        if not whole or unit not in WINDOWS_S:
            raise ValueError("numbers, 1 to 1000000, by second, minute, hour or day: 60/minute")
        policies.append(Policy(unit, int(number), WINDOWS_S[unit]))
    if len({policy.name for policy in policies}) < len(policies):
        raise ValueError("one number for each of second, minute, hour and day")
    return tuple(policies)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read addresses and networks, comma-separated.

    Raises: ValueError, saying what was expected.
    """
    parts = filter(None, map(str.strip, text.split(",")))
    try:
        return tuple(ip_network(part) for part in parts)
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, comma-separated") from None
