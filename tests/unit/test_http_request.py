"""What `http.request` makes of its parameters and of answers."""

import contextlib
import datetime as dt
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from urllib3.exceptions import HTTPError

from jobworker.clock import ManualClock, SystemClock
from jobworker.declare import Abort
from jobworker.worker.builtin import http
from tests.servers import free_port
from tests.waiting import until

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://host.example/path?secret=1", "http://host.example:80"),
        ("https://user:password@HOST.example", "https://host.example:443"),
        ("http://[::1]:8080/", "http://::1:8080"),
    ],
)
def test_a_target_tells_no_secrets(url: str, target: str) -> None:
    assert http._target(url) == target


@pytest.mark.parametrize(
    "url", ["", "host.example", "file:///etc/passwd", "http://", "http://host:99999", "http://[::1"]
)
def test_no_targets(url: str) -> None:
    with pytest.raises(Abort, match="url"):
        http._target(url)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [("200-299", [200, 299], [199, 300]), ("204", [204], [200]), ("200, 301-302", [200, 301, 302], [201, 303])],
)
def test_success_codes(text: str, inside: list[int], outside: list[int]) -> None:
    codes = http._codes(text)
    assert codes >= set(inside)
    assert not codes & set(outside)


@pytest.mark.parametrize("text", ["", "2xx", "200-", "-200", "200..299", "1000", "all"])
def test_no_success_codes(text: str) -> None:
    with pytest.raises(Abort, match="success_codes"):
        http._codes(text)


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ("7", 7.0),
        ("Mon, 02 Mar 2026 12:01:30 GMT", 90.0),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0.0),
        ("99999999999", 86400.0),
        ("soon", None),
        ("", None),
    ],
)
def test_when_to_come_back(told: str, wait: float | None) -> None:
    answer = http._Answer(503, {"Retry-After": told}, b"", True)
    assert http._retry_after(answer, ManualClock(NOON)) == wait


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n"


def _slowly(text: bytes) -> Iterator[bytes]:
    for number in range(len(text)):
        yield text[number : number + 1]


def _redirects() -> Iterator[bytes]:
    yield b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: iter([]), id="nothing"),
        pytest.param(lambda: _slowly(_HEAD * 100), id="headers, drop by drop"),
        pytest.param(lambda: itertools.chain([_HEAD, b"\r\n"], _slowly(b"x" * 100)), id="a body, drop by drop"),
    ],
)
def test_one_deadline_for_all_of_an_answer(answer: Callable[[], Iterator[bytes]]) -> None:
    clock = SystemClock()
    with _serving(answer) as url:
        began = clock.monotonic()
        with pytest.raises(TimeoutError, match=r"not complete after 0\.5 s"):
            http._within(0.5, lambda: http._send("GET", url, {}, None, 0.5))
        assert clock.monotonic() - began < 5.0
    until(lambda: all(thread.name != "http.request" for thread in threading.enumerate()), what="its thread to end")


def test_redirects_share_the_deadline() -> None:
    with _serving(lambda: _after(0.2, _redirects())) as url, pytest.raises(TimeoutError, match="not complete"):
        http._within(0.5, lambda: http._send("GET", url, {}, None, 0.4))


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    with pytest.raises(HTTPError):
        http._within(5.0, lambda: http._send("GET", f"http://127.0.0.1:{free_port()}/", {}, None, 5.0))


def _after(seconds: float, pieces: Iterator[bytes]) -> Iterator[bytes]:
    threading.Event().wait(seconds)
    yield from pieces


@contextlib.contextmanager
def _serving(answer: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A server that sends what `answer` yields, a piece every 0.05 s, to each connection."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for piece in answer():
                connection.sendall(piece)
                if over.wait(0.05):
                    return
            # What it has begun it leaves unfinished: HTTP goes by the length, not by the end of the connection.
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
