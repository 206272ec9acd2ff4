"""Whose address a request comes from, where proxies stand in front."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from macule.settings.access import Network

Address = IPv4Address | IPv6Address
IPV6_PREFIX = 64  # the least that one subscriber gets, so whoever has an address has all of these


def identify(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """Name who asks: an IPv4 address, or the network of an IPv6 address.

    *forwarded*, X-Forwarded-For, is what anybody may have sent, but for what trusted proxies added
    at its end: it is read from there, for as long as the one who said so is trusted.
    """
    address = _parse(peer)
    hops = [part.strip() for part in forwarded.split(",")] if forwarded else []
    while hops and address is not None and any(address in network for network in trusted):
        before = _parse(hops.pop())
        if before is None:  # what a trusted proxy would not have written
            break
        address = before
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return str(address or "unknown")


def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # an IPv4 caller, as a listener on :: sees it; a zone (%eth0) is dropped
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
