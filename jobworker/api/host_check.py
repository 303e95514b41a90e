"""Checks of the target host and the originating site of a request, before its body is read.

A web page of another site can send requests from the browser of a user who reaches the API, and can make a DNS name
of its own resolve to this service. Browsers reveal the first by `Sec-Fetch-Site` or `Origin` and the second by `Host`.
Other clients send `Host` only.
"""

from collections.abc import Iterable
from typing import Protocol

from jobworker.domain.errors import JobWorkerError

#: Host names by which only programs on this machine reach the service.
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

#: Path without a check of the host: load balancers request it by address, and its response reveals nothing.
_HOST_EXEMPT_PATH = "/healthz"

#: Allowed values of `Sec-Fetch-Site`: a page of this origin, or the user (address bar, bookmark, link in a program).
_SAME_SITE_VALUES = frozenset({"same-origin", "none"})

#: Methods without side effects.
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class UnknownHost(JobWorkerError):
    """Error for a request to a host that is not a name of this service."""

    code = "unknown_host"


class CrossSiteRequest(JobWorkerError):
    """Error for a request that a web page of another site sent."""

    code = "cross_site"


class RequestHeaders(Protocol):
    """Headers of a request, with names in lower case."""

    def get(self, name: str, /) -> str | None: ...


class OriginPolicy:
    """Policy that allows or rejects a request by its method, path and headers.

    `hosts` are the names of this service in addition to those of loopback: `name` (any port), `name:port`, or
    `*.domain` for all names below a domain.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        lowercase_hosts = {host.lower() for host in hosts}
        self._names = {host for host in lowercase_hosts if not host.startswith("*.")} | set(LOOPBACK_HOSTS)
        self._domains = tuple(host[1:] for host in lowercase_hosts if host.startswith("*."))

    def check(self, method: str, path: str, headers: RequestHeaders) -> None:
        """Raise `UnknownHost` or `CrossSiteRequest` if the request must be rejected."""
        host = (headers.get("host") or "").lower()
        if path != _HOST_EXEMPT_PATH and not self._is_known(host):
            if not host:
                raise UnknownHost("the request has no Host header; it must name this service")
            raise UnknownHost(
                f"this service is not known as {host!r}; if clients are to call it by this name, its operator adds it "
                "to JOBWORKER_HOSTS"
            )
        site = headers.get("sec-fetch-site")
        if site in _SAME_SITE_VALUES or method == "OPTIONS":
            return
        if site is not None:
            if method in _SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate":
                return  # The user followed a link.
            raise CrossSiteRequest(_CROSS_SITE_MESSAGE)
        origin = headers.get("origin")
        if (
            origin is not None
            and method not in _SAFE_METHODS
            and origin.lower() not in (f"http://{host}", f"https://{host}")
        ):
            raise CrossSiteRequest(_CROSS_SITE_MESSAGE)

    def _is_known(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name = host
        name = name.removesuffix(".")
        return name in self._names or host in self._names or name.endswith(self._domains)


_CROSS_SITE_MESSAGE = (
    "a web page of another site sent this request; only pages of this service and programs other than browsers may"
)
