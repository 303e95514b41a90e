"""One HTTP exchange: within a deadline, with the redirects that are safe to follow, to addresses that may be reached.

What comes back is read as far as it is kept.
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

from jobworker.domain.egress import Egress, is_disguised

#: Most of an answer that is kept: its text as JSON (bytes), its headers, and the text of each (characters).
MOST_BODY = 48 * 1024
_MOST_HEADERS, _LONGEST_HEADER = 50, 200

_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_SEE_OTHER = 303

#: Methods that another origin may be asked with, too: they carry no body.
_PLAIN = frozenset({"GET", "HEAD", "OPTIONS"})

_DEFAULT_PORTS = {"http": 80, "https": 443}


_URL = "it must begin with http:// or https:// and name a host, and a port, if any, by its number"

#: What programs take for different things in a URL.
_ODD = re.compile(r"[\\\x00-\x1f\x7f]")


class Refused(Exception):
    """The target, or the one that a redirect names, must not be asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `complete` says whether the body is all of it."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    def follow_redirect(self, status: int, location: str) -> "Request":
        """Return the request that a redirect asks for; raises `Refused` where that would tell another origin too much.

        Only the first origin gets the headers and the body: both may be meant for it alone.
        """
        url = urljoin(self.url, location)
        before = origin(self.url)
        try:
            after = origin(url)
        except ValueError as error:
            raise Refused(f"{before} redirects to what is no URL: {error}") from None
        if status == _SEE_OTHER and self.method != "HEAD":
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("content-")}
            moved = Request("GET", url, headers, None)
        else:
            moved = replace(self, url=url)
        if before == after:
            return moved
        if before.startswith("https:") and after.startswith("http:"):
            raise Refused(f"{before} redirects to {after}, which is not encrypted")
        if moved.method not in _PLAIN or moved.body is not None:
            raise Refused(f"{before} redirects a {moved.method} to {after}: another origin does not get the body")
        return replace(moved, headers={})


def origin(url: str) -> str:
    """Return scheme://host:port of a URL; what else stands there may be secret. Raises `ValueError` if it is no URL."""
    if _ODD.search(url):
        raise ValueError("it has a backslash or a control character in it")
    try:
        # As the one who connects reads it: others find other hosts in the same text.
        parts = parse_url(url)
    except LocationParseError:
        raise ValueError(_URL) from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.host or parts.port == 0:
        raise ValueError(_URL)
    if parts.auth is not None:
        raise ValueError("a name and a password do not belong into it: send them in a header")
    return f"{parts.scheme}://{parts.host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"


def send(request: Request, timeout: float, egress: Egress) -> Answer:
    """Send a request, follow redirects, and return the answer.

    `timeout` (s) is for all of it. Raises `Refused`, `OSError` (`TimeoutError` among them), urllib3's `HTTPError`, and
    `ValueError` for what cannot be sent.
    """
    return _within(timeout, _Connections(egress), lambda: _follow(request, timeout))


class _Connections:
    """The connections of one exchange: made to what may be reached, and ended with it whatever they wait for."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed = False

    def open(self, connection: HTTPConnection) -> socket.socket:
        """Connect to the host of a connection, to an address that was looked at after it was looked up."""
        host, port = connection._dns_host.strip("[]"), connection.port
        if is_disguised(host):
            raise Refused(f"{host} is an unusual spelling of an address; write it like 192.0.2.1")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NameResolutionError(host, connection, error) from error  # type: ignore[arg-type]
        addresses = dict.fromkeys(str(target[0]) for *_, target in found)
        allowed = [address for address in addresses if self._egress.is_allowed(host, port, address)]
        if not allowed:
            raise Refused(f"{host}:{port} is no public address, and JOBWORKER_EGRESS of this worker does not list it")
        return self._track(_connect(connection, allowed))

    def _track(self, connected: socket.socket) -> socket.socket:
        with self._lock:
            if self._closed:
                connected.close()
                raise TimeoutError("the request is over")
            # A descriptor of our own: TLS takes the other one away.
            self._sockets.append(connected.dup())
        return connected

    def close(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            self._closed = True
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


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


_connections: ContextVar[_Connections] = ContextVar("connections")


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connections.get().open(self)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connections.get().open(self)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _within(seconds: float, connections: _Connections, ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` returns or raise what it raises; raise `TimeoutError` if it takes longer than `seconds`.

    It runs in a thread: urllib3's time-outs are those of one read or connect, and looking up a name has none.
    """
    outcome: Future[Answer] = Future()

    def run() -> None:
        _connections.set(connections)
        try:
            outcome.set_result(ask())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=run, name="http.request", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"timed out: the answer was not complete after {seconds:g} s") from error
    finally:
        connections.close()


def _follow(request: Request, timeout: float) -> Answer:
    retries = urllib3.Retry(total=None, connect=0, read=0, redirect=False, status=0, other=0)
    # Only ends what `_Connections` cannot: a connection that is still being made.
    with urllib3.PoolManager(timeout=timeout + 1.0, retries=retries) as pool:
        pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        for _ in range(_REDIRECTS + 1):
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
                if response.status not in _MOVED or not location:
                    body, complete = _read(response)
                    return Answer(response.status, _shown(response.headers), body, complete)
                request = request.follow_redirect(response.status, location)
    raise OSError(f"more than {_REDIRECTS} redirects")


def _read(response: urllib3.BaseHTTPResponse) -> tuple[bytes, bool]:
    """Return as much of the body as is kept, and whether that is all of it."""
    body = b""
    while len(body) <= MOST_BODY and (piece := response.read1(MOST_BODY)):
        body += piece
    return body[:MOST_BODY], len(body) <= MOST_BODY


def _shown(headers: Any) -> dict[str, str]:
    found = list(headers.items())[:_MOST_HEADERS]
    return {name: value[:_LONGEST_HEADER] for name, value in found}
