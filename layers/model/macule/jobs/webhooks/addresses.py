"""Address checks for webhooks: public addresses only, checked when connecting."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network
from socket import SOCK_STREAM, create_connection, getaddrinfo, socket
from typing import Any

from macule.http.client import Connect, Unreachable

Resolve = Callable[[str, int, int, int], list[Any]]  # as socket.getaddrinfo
GLOBAL_UNICAST = IPv6Network("2000::/3")  # without loopback, local, link-local, multicast
NAT64 = IPv6Network("64:ff9b::/96")  # the last four bytes are an IPv4 address
# Not public, but `is_global` in some or all versions of Python.
RESERVED_NETWORKS = (
    ip_network("192.0.0.0/24"),  # IETF protocols; Oracle Cloud metadata
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("168.63.129.16/32"),  # Azure WireServer
    ip_network("224.0.0.0/4"),  # multicast
    ip_network("2001::/23"),  # Teredo and other tunnels that embed IPv4 addresses
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4
    ip_network("3fff::/20"),  # documentation
)


class NoPublicAddress(Unreachable):
    """The host has no allowed address."""


def is_public(text: str) -> bool:
    """Return whether an address is public; an embedded IPv4 address decides."""
    address = ip_address(text)
    if address.version == 6:
        if address.ipv4_mapped or address in NAT64:
            return is_public(str(IPv4Address(address.packed[-4:])))
        if address not in GLOBAL_UNICAST:
            return False
    return address.is_global and not any(address in network for network in RESERVED_NETWORKS)


def is_allowed(text: str, loopback: bool) -> bool:
    return is_public(text) or (loopback and ip_address(text).is_loopback)


def connector(loopback: bool, resolve: Resolve = getaddrinfo) -> Connect:
    """Return a function that resolves a host once and connects to the addresses it checked.

    This prevents DNS rebinding.
    """

    def connect(address: tuple[str, int], timeout_s: float) -> socket:
        targets = [found[4][:2] for found in resolve(*address, 0, SOCK_STREAM)]
        targets = [target for target in targets if is_allowed(target[0], loopback)]
        if not targets:
            raise NoPublicAddress("has no public address")
        share_s, failure = timeout_s / len(targets), OSError()
        for target in targets:  # IPv6 may be unreachable while IPv4 works
            try:
                connection = create_connection(target, share_s)
            except OSError as error:
                failure = error
            else:
                connection.settimeout(timeout_s)
                return connection
        raise failure

    return connect
