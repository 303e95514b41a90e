"""HTTP exchange: with a deadline, safe redirects, and allowed addresses only.

The response is read as far as it is stored.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection
from urllib3.util.url import parse_url

from jobworker.domain.jobs.egress import EgressPolicy, is_nonstandard_ipv4

#: Maximum stored part of a response: the body as JSON (bytes), the number of headers, and the length of each
#: (characters).
MAX_BODY_SIZE = 48 * 1024
_MAX_HEADERS, _MAX_HEADER_LENGTH = 50, 200

_MAX_REDIRECTS = 5
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_SEE_OTHER = 303

#: Methods without a body, with which a redirect to another origin may be followed.
_BODYLESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_DEFAULT_PORTS = {"http": 80, "https": 443}


_URL_RULE = "it must begin with http:// or https:// and name a host, and a port, if any, by its number"

#: Characters in a URL that programs interpret differently.
_AMBIGUOUS_CHARACTERS = re.compile(r"[\\\x00-\x1f\x7f]")


class RequestNotAllowed(Exception):
    """The target, or the target of a redirect, must not be contacted."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response; `complete` is True if the body is not truncated."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    def follow_redirect(self, status: int, location: str) -> "HttpRequest":
        """Return the redirected request; raises `RequestNotAllowed` if it discloses too much to another origin.

        Only the first origin gets the headers and the body, because both may be meant for it alone.
        """
        url = urljoin(self.url, location)
        before = parse_origin(self.url)
        try:
            after = parse_origin(url)
        except ValueError as error:
            raise RequestNotAllowed(f"{before} redirects to an invalid URL: {error}") from None
        if status == _SEE_OTHER and self.method != "HEAD":
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("content-")}
            moved = HttpRequest("GET", url, headers, None)
        else:
            moved = replace(self, url=url)
        if before == after:
            return moved
        if before.startswith("https:") and after.startswith("http:"):
            raise RequestNotAllowed(f"{before} redirects to {after}, which is not encrypted")
        if moved.method not in _BODYLESS_METHODS or moved.body is not None:
            raise RequestNotAllowed(
                f"{before} redirects a {moved.method} to {after}: another origin does not get the body"
            )
        return replace(moved, headers={})


def parse_origin(url: str) -> str:
    """Return scheme://host:port of a URL; the rest of it may be secret. Raises `ValueError` for an invalid URL."""
    if _AMBIGUOUS_CHARACTERS.search(url):
        raise ValueError("it has a backslash or a control character in it")
    try:
        # Parsed by the library that connects, because other parsers find other hosts in such a text.
        parts = parse_url(url)
    except LocationParseError:
        raise ValueError(_URL_RULE) from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.host or parts.port == 0:
        raise ValueError(_URL_RULE)
    if parts.auth is not None:
        raise ValueError("it must not contain a user name or a password: send them in a header")
    return f"{parts.scheme}://{parts.host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"


def send_request(request: HttpRequest, timeout: float, egress: EgressPolicy) -> HttpResponse:
    """Send a request, follow redirects, and return the response.

    `timeout` (s) applies to the whole exchange. Raises `RequestNotAllowed`, `OSError` (`TimeoutError` among them),
    urllib3's `HTTPError`, and `ValueError` for a request that cannot be sent.
    """
    return _run_within(timeout, _ExchangeConnections(egress), lambda: _follow_redirects(request, timeout))


class _ExchangeConnections:
    """The connections of one exchange: made to allowed addresses only, and closed at its end even if they block."""

    def __init__(self, egress: EgressPolicy) -> None:
        self._egress = egress
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed = False

    def open(self, connection: HTTPConnection) -> socket.socket:
        """Connect to the host of a connection, to a resolved address that was checked."""
        host, port = connection._dns_host.strip("[]"), connection.port
        if is_nonstandard_ipv4(host):
            raise RequestNotAllowed(f"{host} is an unusual spelling of an address; write it like 192.0.2.1")
        try:
            targets = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NameResolutionError(host, connection, error) from error  # type: ignore[arg-type]
        addresses = dict.fromkeys(str(target[0]) for *_, target in targets)
        allowed = [address for address in addresses if self._egress.is_allowed(host, port, address)]
        if not allowed:
            raise RequestNotAllowed(
                f"{host}:{port} is not a public address, and JOBWORKER_EGRESS of this worker does not list it"
            )
        return self._track(_connect(connection, allowed))

    def _track(self, connected: socket.socket) -> socket.socket:
        with self._lock:
            if self._closed:
                connected.close()
                raise TimeoutError("the request has ended")
            # A duplicate of the descriptor, because TLS takes over the other one.
            self._sockets.append(connected.dup())
        return connected

    def close(self) -> None:
        """Close all connections, and refuse new ones."""
        with self._lock:
            self._closed = True
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


def _connect(connection: HTTPConnection, addresses: Iterable[str]) -> socket.socket:
    failed: OSError | None = None
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port), connection.timeout, socket_options=connection.socket_options
            )
        except OSError as error:
            failed = error
    if isinstance(failed, TimeoutError):
        raise ConnectTimeoutError(connection, "the connection timed out") from failed
    raise NewConnectionError(connection, str(failed)) from failed


_connections: ContextVar[_ExchangeConnections] = ContextVar("connections")


class _TrackedHttpConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connections.get().open(self)


class _TrackedHttpsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connections.get().open(self)


class _TrackedHttpPool(HTTPConnectionPool):
    ConnectionCls = _TrackedHttpConnection


class _TrackedHttpsPool(HTTPSConnectionPool):
    ConnectionCls = _TrackedHttpsConnection


def _run_within(seconds: float, connections: _ExchangeConnections, perform: Callable[[], HttpResponse]) -> HttpResponse:
    """Return the result of `perform` or raise its exception; raise `TimeoutError` after `seconds`.

    `perform` runs in a thread, because urllib3's timeouts apply to one read or connect, and name lookups have none.
    """
    outcome: Future[HttpResponse] = Future()

    def run() -> None:
        _connections.set(connections)
        try:
            outcome.set_result(perform())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=run, name="http.request", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"timed out: the response was incomplete after {seconds:g} s") from error
    finally:
        connections.close()


def _follow_redirects(request: HttpRequest, timeout: float) -> HttpResponse:
    retries = urllib3.Retry(total=None, connect=0, read=0, redirect=False, status=0, other=0)
    # Ends only connections that `_ExchangeConnections` cannot close: those that are still being made.
    with urllib3.PoolManager(timeout=timeout + 1.0, retries=retries) as pool:
        pool.pool_classes_by_scheme = {"http": _TrackedHttpPool, "https": _TrackedHttpsPool}
        for _ in range(_MAX_REDIRECTS + 1):
            response = pool.request(
                request.method,
                request.url,
                body=request.body,
                headers=request.headers,
                preload_content=False,
                redirect=False,
            )
            with contextlib.closing(response):
                location = response.headers.get("location")
                if response.status not in _REDIRECT_STATUSES or not location:
                    body, complete = _read_body(response)
                    return HttpResponse(response.status, _truncate_headers(response.headers), body, complete)
                request = request.follow_redirect(response.status, location)
    raise OSError(f"more than {_MAX_REDIRECTS} redirects")


def _read_body(response: urllib3.BaseHTTPResponse) -> tuple[bytes, bool]:
    """Return the stored part of the body, and whether that is the whole body."""
    body = b""
    while len(body) <= MAX_BODY_SIZE and (piece := response.read1(MAX_BODY_SIZE)):
        body += piece
    return body[:MAX_BODY_SIZE], len(body) <= MAX_BODY_SIZE


def _truncate_headers(headers: Any) -> dict[str, str]:
    items = list(headers.items())[:_MAX_HEADERS]
    return {name: value[:_MAX_HEADER_LENGTH] for name, value in items}
