"""Parsers of API_KEYS, QUOTA and TRUSTED_PROXIES."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from macule.errors import BadSetting

Network = IPv4Network | IPv6Network
WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
MAX_QUOTA = 1_000_000
US_PER_S = 1_000_000  # integers give the same sums in Python and in Lua
KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_ENTRY = re.compile(rf"({KEY_NAME.pattern}):([0-9a-fA-F]{{64}})(:revoked)?")


class KeyEntry(NamedTuple):
    """The name of a key's holder, and the key's SHA-256."""

    name: str
    digest: bytes
    revoked: bool


class Policy(NamedTuple):
    """A number of requests in a window; `name` is the window's unit."""

    name: str
    quota: int
    window_s: int

    @property
    def interval_us(self) -> int:
        """The microseconds after which one more request is available."""
        return self.window_s * US_PER_S // self.quota


def parse_keys(lines: Iterable[str]) -> tuple[KeyEntry, ...]:
    """Parse lines of `name:hash` or `name:hash:revoked`; # begins a comment.

    A name may have several keys, so that keys can be rotated.
    Raises: BadSetting, with the number of the line only.
    """
    entries: dict[bytes, KeyEntry] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = KEY_ENTRY.fullmatch(text)
        if not match:
            raise BadSetting(f"API_KEYS: entry {number} is not name:sha256 (`macule key new`).")
        entry = KeyEntry(match[1], bytes.fromhex(match[2]), bool(match[3]))
        if entry.digest in entries:
            raise BadSetting(f"API_KEYS: entry {number} repeats a hash.")
        entries[entry.digest] = entry
    return tuple(entries.values())


def parse_rate_limits(parts: Iterable[str]) -> tuple[Policy, ...]:
    """Parse "60/minute", "1000/hour" and so on.

    Raises: ValueError, with what is expected.
    """
    policies = []
    for part in parts:
        number, _, unit = (word.strip() for word in part.partition("/"))
        is_quota = number.isascii() and number.isdigit() and 1 <= int(number[:8]) <= MAX_QUOTA
        if not is_quota or unit not in WINDOWS_S:
            raise ValueError("numbers, 1 to 1000000, by second, minute, hour or day: 60/minute")
        policies.append(Policy(unit, int(number), WINDOWS_S[unit]))
    if len({policy.name for policy in policies}) < len(policies):
        raise ValueError("one number for each of second, minute, hour and day")
    return tuple(policies)


def parse_networks(parts: Iterable[str]) -> tuple[Network, ...]:
    """Parse addresses and networks.

    Raises: ValueError, with what is expected.
    """
    try:
        return tuple(map(ip_network, parts))
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, comma-separated") from None
