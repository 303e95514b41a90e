"""Addresses (host:port): parsed, and checked to be free before a server is started on them."""

import contextlib
import errno
import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import Settings

#: Addresses on which a server is reachable from everywhere, and the address at which this machine reaches it then.
_WILDCARD_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Address(NamedTuple):
    """The address on which a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The http:// URL under which this machine reaches the server."""
        host = _WILDCARD_ADDRESSES.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def parse(text: str, variable: str) -> Address:
    """Return the address in `address:port` (IPv6 in brackets, `localhost` is 127.0.0.1).

    Raises `ConfigurationError`, which names `variable`.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        host = "127.0.0.1" if host == "localhost" else str(ipaddress.ip_address(host or ""))
    except ValueError:
        host = port = None
    if not host or not port or parts.path:
        raise ConfigurationError(f"{variable}={text} must be an IP address and a port, such as 127.0.0.1:8000")
    return Address(host, port)


def list_allowed_hosts(settings: Settings) -> list[str]:
    """Return the host names under which the API may be called: the configured ones and the address of `bind`."""
    host = parse(settings.bind, "JOBWORKER_BIND").host
    own = [] if host in _WILDCARD_ADDRESSES else [f"[{host}]" if ":" in host else host]
    return [*settings.hosts, *own]


def require_hosts(settings: Settings) -> None:
    """Raise `ConfigurationError` if other machines reach the API without configured host names: it has no accounts."""
    host = parse(settings.bind, "JOBWORKER_BIND").host
    if not ipaddress.ip_address(host).is_loopback and not settings.hosts:
        raise ConfigurationError(
            f"JOBWORKER_BIND={settings.bind} lets other machines reach the API, and it has no accounts: any client "
            "that reaches it can run jobs. If that is intended, list the names by which clients call it in "
            "JOBWORKER_HOSTS, such as jobs.example.com; otherwise bind to 127.0.0.1 and put a proxy in front that "
            "authenticates clients"
        )


def require_free(address: Address, variable: str) -> None:
    """Raise `ConfigurationError` if another program listens on an address, or this machine does not have it."""
    try:
        _listen(address).close()
    except OSError as error:
        raise ConfigurationError(_describe_bind_error(address, variable, error)) from error


def _describe_bind_error(address: Address, variable: str, error: OSError) -> str:
    shown = f"{address.host}:{address.port}"
    remedy = f"set {variable} to another host:port (it is {shown} now)"
    if error.errno == errno.EADDRINUSE:
        return f"port {address.port} on {address.host} is in use by another program; stop that or {remedy}"
    return f"nothing can listen on {shown}: {error.strerror or error}; {remedy}"


def find_free_port(preferred: int | None = None) -> int:
    """Return a free loopback port: `preferred` if it is still free."""
    for port in (preferred, 0):
        if port is not None:
            with contextlib.suppress(OSError), _listen(Address("127.0.0.1", port)) as listener:
                return int(listener.getsockname()[1])
    raise ConfigurationError("this machine has no free loopback port")


def _listen(address: Address) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Servers set this option too; without it, a port that was in use a minute ago would not be free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
