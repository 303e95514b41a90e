"""An HTTP exchange: its deadline, its redirects and the addresses that it must not reach."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from urllib3.exceptions import HTTPError

from jobworker.clock import SystemClock
from jobworker.domain.jobs.egress import EgressPolicy
from jobworker.worker.builtin import http_exchange
from jobworker.worker.builtin.http_exchange import HttpRequest, HttpResponse, RequestNotAllowed
from tests.polling import wait_until
from tests.servers import find_free_port

_LOOPBACK = EgressPolicy(["127.0.0.1"])


def send_request(url: str, timeout: float = 10.0, egress: EgressPolicy = _LOOPBACK) -> HttpResponse:
    return http_exchange.send_request(HttpRequest("GET", url, {}, None), timeout, egress)


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"


def _answer_slowly(text: bytes) -> Iterator[bytes]:
    for number in range(len(text)):
        yield text[number : number + 1]


def _answer_with_redirects() -> Iterator[bytes]:
    yield b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: iter([]), id="nothing"),
        pytest.param(lambda: _answer_slowly(_HEAD * 100), id="headers, drop by drop"),
        pytest.param(lambda: itertools.chain([_HEAD, b"\r\n"], _answer_slowly(b"x" * 100)), id="a body, drop by drop"),
    ],
)
def test_slow_response_ends_at_deadline(answer: Callable[[], Iterator[bytes]]) -> None:
    clock = SystemClock()
    with _run_server(answer) as url:
        began = clock.monotonic()
        with pytest.raises(TimeoutError, match=r"incomplete after 0\.5 s"):
            send_request(url, 0.5)
        assert clock.monotonic() - began < 5.0
    wait_until(lambda: all(thread.name != "http.request" for thread in threading.enumerate()), what="its thread to end")


def test_redirects_share_the_deadline() -> None:
    with (
        _run_server(lambda: _answer_after(0.2, _answer_with_redirects())) as url,
        pytest.raises(TimeoutError, match="incomplete"),
    ):
        send_request(url, 0.5)


def test_connection_error_raised_in_waiting_thread() -> None:
    with pytest.raises(HTTPError):
        send_request(f"http://127.0.0.1:{find_free_port()}/", 5.0)


def _answer_after(seconds: float, pieces: Iterator[bytes]) -> Iterator[bytes]:
    threading.Event().wait(seconds)
    yield from pieces


@contextlib.contextmanager
def _run_server(answer: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """Run a server that sends the pieces of `answer`, one every 0.05 s, to each connection."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for piece in answer():
                connection.sendall(piece)
                if over.wait(0.05):
                    return
            # The response stays unfinished: HTTP goes by the length, not by the end of the connection.
            over.wait(30)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        over.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
def test_loopback_rejected_in_every_spelling(host: str) -> None:
    with pytest.raises(
        RequestNotAllowed, match="is not a public address, and JOBWORKER_EGRESS of this worker does not list it"
    ):
        send_request(f"http://{host}:{find_free_port()}/", egress=EgressPolicy([]))


@pytest.mark.parametrize("host", ["2130706433", "0", "127.1", "0x7f.1", "0x7f000001", "0177.0.0.1"])
def test_nonstandard_address_spellings_rejected(host: str) -> None:
    with pytest.raises(RequestNotAllowed, match="unusual spelling of an address"):
        send_request(f"http://{host}:{find_free_port()}/")


def test_host_name_checked_at_connection_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a loopback address is connected at the public address only."""
    tried: list[str] = []
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("127.0.0.1", "8.8.8.8")]

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        tried.append(address[0])
        raise OSError("not here")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.setattr(http_exchange, "create_connection", connect)
    with pytest.raises(HTTPError):
        send_request("http://both.example/", egress=EgressPolicy([]))
    assert tried == ["8.8.8.8"]


def _make_redirect(location: str, status: int = 302) -> Callable[[], Iterator[bytes]]:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return lambda: iter([head.encode()])


def test_redirect_target_checked_by_egress_policy() -> None:
    with (
        _run_server(lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])) as hidden,
        _run_server(_make_redirect(hidden)) as url,
    ):
        only = url.removeprefix("http://").rstrip("/")
        assert send_request(url).status == 200
        with pytest.raises(RequestNotAllowed, match="is not a public address"):
            send_request(url, egress=EgressPolicy([only]))


def test_endless_redirects_rejected() -> None:
    with _run_server(_make_redirect("/again")) as url, pytest.raises(OSError, match="more than 5 redirects"):
        send_request(url)


_FIRST_REQUEST = HttpRequest("POST", "https://a.example/one", {"X-Api-Key": "k", "Content-Type": "text/plain"}, b"body")


def test_same_origin_redirect_keeps_headers_and_body() -> None:
    assert _FIRST_REQUEST.follow_redirect(307, "two") == replace(_FIRST_REQUEST, url="https://a.example/two")
    assert _FIRST_REQUEST.follow_redirect(307, "https://A.example:443/two") == replace(
        _FIRST_REQUEST, url="https://A.example:443/two"
    )
    assert _FIRST_REQUEST.follow_redirect(303, "/two") == HttpRequest(
        "GET", "https://a.example/two", {"X-Api-Key": "k"}, None
    )


@pytest.mark.parametrize("location", ["https://b.example/", "https://a.example:8443/", "//b.example/"])
def test_cross_origin_redirect_drops_headers_and_rejects_body(location: str) -> None:
    request = replace(_FIRST_REQUEST, method="GET", body=None)
    assert request.follow_redirect(307, location).headers == {}
    assert _FIRST_REQUEST.follow_redirect(303, location).headers == {}
    with pytest.raises(RequestNotAllowed, match="another origin does not get the body"):
        _FIRST_REQUEST.follow_redirect(307, location)
    with pytest.raises(RequestNotAllowed, match="another origin does not get the body"):
        replace(request, body=b"x").follow_redirect(302, location)
    with pytest.raises(RequestNotAllowed, match="DELETE"):
        replace(request, method="DELETE").follow_redirect(302, location)


@pytest.mark.parametrize(
    "location",
    [
        "http://a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        # Programs parse different hosts out of these.
        "https://b.example\\@a.example/",
        "//b.example\\@a.example/",
        "https://user:password@a.example/",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:b/",
    ],
)
def test_redirect_to_invalid_or_unencrypted_url_rejected(location: str) -> None:
    with pytest.raises(RequestNotAllowed, match=r"not encrypted|an invalid URL"):
        replace(_FIRST_REQUEST, method="GET", body=None).follow_redirect(302, location)


def test_invalid_url_error_omits_password() -> None:
    for url in ("http://user:PASS/WD@a.example/", "http://user:PASSWD@a.example/", "http://a.example:PASSWD/"):
        with pytest.raises(ValueError, match=r"it must begin with|it must not contain a user name") as caught:
            http_exchange.parse_origin(url)
        assert "PASS" not in str(caught.value)
    assert http_exchange.parse_origin("HTTP://A.example/b?c#d") == "http://a.example:80"
    assert http_exchange.parse_origin("https://[::1]:8443/") == "https://[::1]:8443"
