"""Egress rules: jobs may connect to public addresses and to those that the worker's operator lists.

A user who may submit a job chooses its URL. Addresses of this machine, of private networks and of cloud metadata
services are reachable only from inside, so they are refused unless they are listed.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from jobworker.domain.errors import ConfigurationError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Special-purpose addresses (IANA's registries), which no public host has. `ipaddress.is_global` classifies some of
#: them differently, depending on the version of Python.
_NON_PUBLIC_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)

#: All public hosts are in the first of these networks and in none of the others. So an address that carries an IPv4
#: address (mapped, NAT64, 6to4, Teredo) is not public.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NON_PUBLIC_IPV6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

#: Numeric forms that C libraries accept as an IPv4 address: 127.1, 0x7f.1, 2130706433.
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}\.?")

_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class EgressPolicy:
    """The allowed destinations besides public addresses.

    `entries` are networks, addresses and names of hosts, with a port to allow that port only: `10.1.0.0/16`,
    `127.0.0.1`, `[::1]:8080`, `intranet:8443`, `*.internal.example`. A listed name may have any address. Raises
    `ConfigurationError` for other entries.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[tuple[_Network, int | None]] = []
        self._names: list[tuple[str, int | None]] = []
        for entry in entries:
            self._add(entry)

    def is_allowed(self, host: str, port: int, address: str) -> bool:
        """Return whether a connection to this address may be made for a URL with this host and port."""
        name = host.lower().rstrip(".")
        if any(_matches_host_pattern(name, listed) and only in (None, port) for listed, only in self._names):
            return True
        # The part after % is the interface of a link-local address.
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if _is_public(parsed):
            return True
        forms = [parsed, mapped] if (mapped := _get_mapped_ipv4(parsed)) else [parsed]
        return any(form in network for network, only in self._networks if only in (None, port) for form in forms)

    def _add(self, entry: str) -> None:
        host, port = _split_host_and_port(entry)
        try:
            if port and not 0 < int(port) < 65536:
                raise ValueError
            only = int(port) if port else None
            if _is_address(host.partition("/")[0]):
                self._networks.append((ipaddress.ip_network(host, strict=False), only))
            elif _NAME.fullmatch(host) and not _NUMERIC.fullmatch(host):
                self._names.append((host.lower(), only))
            else:
                raise ValueError
        except ValueError:
            raise ConfigurationError(
                f"JOBWORKER_EGRESS={entry} must be a network, an address, a name or *. and a domain, with a port or "
                "without: 10.1.0.0/16, [::1]:8080, intranet:8443, *.internal.example"
            ) from None


def is_nonstandard_ipv4(host: str) -> bool:
    """Return whether the text is an IPv4 address in a notation that only some programs accept."""
    return _NUMERIC.fullmatch(host) is not None and not _is_address(host)


def _split_host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, closed, port = entry[1:].partition("]")
        return (host, port.removeprefix(":")) if closed else (entry, "")
    if entry.count(":") > 1:
        return entry, ""
    host, _, port = entry.partition(":")
    return host, port


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_public(address: IpAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NON_PUBLIC_IPV4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NON_PUBLIC_IPV6)


def _get_mapped_ipv4(address: IpAddress) -> Any:
    return getattr(address, "ipv4_mapped", None)


def _matches_host_pattern(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
