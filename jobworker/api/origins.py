"""The host that a request is for and the site that it comes from, checked before its body is read.

A web page of another site can send requests here from the browser of somebody who reaches the API, and can let a name
of its own point here. Browsers tell both: by `Sec-Fetch-Site` or `Origin`, and by `Host`. Other clients send no more
than `Host`.
"""

from collections.abc import Iterable
from typing import Protocol

from jobworker.domain.errors import JobWorkerError

#: Names by which only programs on this machine reach it.
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

#: The load balancer that asks whether the process lives knows it by an address; the answer tells nothing.
_HOST_EXEMPT_PATH = "/healthz"

#: Values of `Sec-Fetch-Site`: a page of this site, or the user by the address bar, a bookmark or a link elsewhere.
_SAME_SITE_VALUES = frozenset({"same-origin", "none"})

#: Methods that change nothing.
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class UnknownHost(JobWorkerError):
    """The request is for a host that is none of this service's names."""

    code = "unknown_host"


class CrossSiteRequest(JobWorkerError):
    """The request was sent by a web page of another site."""

    code = "cross_site"


class RequestHeaders(Protocol):
    """Headers of a request; names in lower case."""

    def get(self, name: str, /) -> str | None: ...


class OriginPolicy:
    """Decides by method, path and headers whether a request may be answered.

    `hosts` are the names of this service beside those of loopback: `name`, which is one at any port, `name:port`, or
    `*.domain` for all names below a domain.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        lowercase_hosts = {host.lower() for host in hosts}
        self._names = {host for host in lowercase_hosts if not host.startswith("*.")} | set(LOOPBACK_HOSTS)
        self._domains = tuple(host[1:] for host in lowercase_hosts if host.startswith("*."))

    def check(self, method: str, path: str, headers: RequestHeaders) -> None:
        """Raise `UnknownHost` or `CrossSite` for a request that must not be answered."""
        host = (headers.get("host") or "").lower()
        if path != _HOST_EXEMPT_PATH and not self._is_known(host):
            if not host:
                raise UnknownHost("the request has no Host header; it names the service that is asked")
            raise UnknownHost(
                f"this service is not known as {host!r}; if clients are to call it by this name, its operator adds it "
                "to JOBWORKER_HOSTS"
            )
        site = headers.get("sec-fetch-site")
        if site in _SAME_SITE_VALUES or method == "OPTIONS":
            return
        if site is not None:
            if method in _SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate":
                return  # A link to this page.
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
    "a web page of another site has sent this; only pages of this service may, and programs that are no browser"
)
