"""Where webhooks may go: to public addresses alone, checked where the connection is made."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from socket import SOCK_STREAM, create_connection, getaddrinfo, socket
from typing import Any

from macule.http.client import Connect, Unreachable

Resolve = Callable[[str, int, int, int], list[Any]]  # as socket.getaddrinfo
GLOBAL = IPv6Network(
    "2000::/3"
)  # all that is routed; not so loopback, local, link-local, multicast
NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address in its last four bytes
# What Python's own table calls global, or did before some patch release, and is not everybody's.
CLOSED = (
    ip_network("192.0.0.0/24"),  # protocols; Oracle's metadata
    ip_network("192.88.99.0/24"),  # relays of 6to4
    ip_network("168.63.129.16/32"),  # Azure's wire server
    ip_network("224.0.0.0/4"),  # multicast
    ip_network("2001::/23"),  # Teredo and other tunnels, whose addresses hold IPv4 ones
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4
    ip_network("3fff::/20"),  # documentation
)


class Refused(Unreachable):
    """No address of this host may be connected to."""


def public(text: str) -> bool:
    """Is this address everybody's? One that holds an IPv4 address is judged by that."""
    address = ip_address(text)
    if address.version == 6:
        if address.ipv4_mapped or address in NAT64:
            return public(str(IPv4Address(address.packed[-4:])))
        if address not in GLOBAL:
            return False
    return address.is_global and not any(address in network for network in CLOSED)


def admitted(text: str, loopback: bool) -> bool:
    return public(text) or (loopback and ip_address(text).is_loopback)


def connector(loopback: bool, resolve: Resolve = getaddrinfo) -> Connect:
    """Return what looks a host up once, and connects to the very addresses that it checked.

    So a name that changes its address between a check and the connection gains nothing.
    """

    def connect(address: tuple[str, int], timeout_s: float) -> socket:
        places = [found[4][:2] for found in resolve(*address, 0, SOCK_STREAM)]
        places = [place for place in places if admitted(place[0], loopback)]
        if not places:
            raise Refused("has no public address")
        share_s, failure = timeout_s / len(places), OSError()
        for place in places:  # IPv6 may lead nowhere where IPv4 does
            try:
                line = create_connection(place, share_s)
            except OSError as error:
                failure = error
            else:
                line.settimeout(timeout_s)
                return line
        raise failure

    return connect
