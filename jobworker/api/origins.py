"""The host that a request is for and the site that it comes from, checked before its body is read.

A web page of another site can send requests here from the browser of somebody who reaches the API, and can let a name
of its own point here. Browsers tell both: by `Sec-Fetch-Site` or `Origin`, and by `Host`. Other clients send no more
than `Host`.
"""

from collections.abc import Iterable
from typing import Protocol

from jobworker.domain.errors import JobWorkerError

#: Names by which only programs on this machine reach it.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

#: The load balancer that asks whether the process lives knows it by an address; the answer tells nothing.
_ANY_HOST = "/healthz"

#: Values of `Sec-Fetch-Site`: a page of this site, or the user by the address bar, a bookmark or a link elsewhere.
_OWN_SITE = frozenset({"same-origin", "none"})

#: Methods that change nothing.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class UnknownHost(JobWorkerError):
    """The request is for a host that is none of this service's names."""

    code = "unknown_host"


class CrossSite(JobWorkerError):
    """The request was sent by a web page of another site."""

    code = "cross_site"


class Headers(Protocol):
    """Headers of a request; names in lower case."""

    def get(self, name: str, /) -> str | None: ...


class Origins:
    """Decides by method, path and headers whether a request may be answered.

    `hosts` are the names of this service beside those of loopback: `name`, which is one at any port, `name:port`, or
    `*.domain` for all names below a domain.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        listed = {host.lower() for host in hosts}
        self._names = {host for host in listed if not host.startswith("*.")} | set(LOOPBACK)
        self._domains = tuple(host[1:] for host in listed if host.startswith("*."))

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raise `UnknownHost` or `CrossSite` for a request that must not be answered."""
        host = (headers.get("host") or "").lower()
        if path != _ANY_HOST and not self._is_known(host):
            if not host:
                raise UnknownHost("the request has no Host header; it names the service that is asked")
            raise UnknownHost(
                f"this service is not known as {host!r}; if clients are to call it by this name, its operator adds it "
                "to JOBWORKER_HOSTS"
            )
        site = headers.get("sec-fetch-site")
        if site in _OWN_SITE or method == "OPTIONS":
            return
        if site is not None:
            if method in _SAFE and headers.get("sec-fetch-mode") == "navigate":
                return  # A link to this page.
            raise CrossSite(_REFUSED)
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise CrossSite(_REFUSED)

    def _is_known(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name = host
        name = name.removesuffix(".")
        return name in self._names or host in self._names or name.endswith(self._domains)


_REFUSED = "a web page of another site has sent this; only pages of this service may, and programs that are no browser"
