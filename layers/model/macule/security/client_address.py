"""The client's address of a request behind proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from macule.settings.access import Network

Address = IPv4Address | IPv6Address
IPV6_PREFIX = 64  # the smallest network of a subscriber, who may use all its addresses


def identify(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """Return the client: an IPv4 address, or the network of an IPv6 address.

    Clients can forge *forwarded* (X-Forwarded-For), except for the addresses that trusted proxies
    append. So it is read from its end, as long as the address that added an entry is trusted.
    """
    address = _parse(peer)
    hops = [part.strip() for part in forwarded.split(",")] if forwarded else []
    while hops and address is not None and any(address in network for network in trusted):
        before = _parse(hops.pop())
        if before is None:  # no trusted proxy writes this
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
        # a listener on :: sees IPv4 clients as mapped addresses; a zone (%eth0) is removed
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
