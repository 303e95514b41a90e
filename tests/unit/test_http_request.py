"""The parameters of `http.request`, and its reading of responses."""

import datetime as dt

import pytest
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError, ProtocolError

from jobworker.clock import ManualClock
from jobworker.declare import Abort
from jobworker.worker.builtin import http
from jobworker.worker.builtin.http_exchange import HttpResponse

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://host.example/path?secret=1", "http://host.example:80"),
        ("https://HOST.example", "https://host.example:443"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_circuit_target_contains_no_secrets(url: str, target: str) -> None:
    assert http._parse_target(url) == target


@pytest.mark.parametrize(
    "url", ["", "host.example", "file:///etc/passwd", "http://", "http://host:99999", "http://[::1", "http://u:p@host"]
)
def test_invalid_url_aborts(url: str) -> None:
    with pytest.raises(Abort, match="url"):
        http._parse_target(url)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [("200-299", [200, 299], [199, 300]), ("204", [204], [200]), ("200, 301-302", [200, 301, 302], [201, 303])],
)
def test_success_codes_parsed(text: str, inside: list[int], outside: list[int]) -> None:
    codes = http._parse_codes(text)
    assert codes >= set(inside)
    assert not codes & set(outside)


@pytest.mark.parametrize("text", ["", "2xx", "200-", "-200", "200..299", "1000", "all"])
def test_invalid_success_codes_abort(text: str) -> None:
    with pytest.raises(Abort, match="success_codes"):
        http._parse_codes(text)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        ("Mon, 02 Mar 2026 12:01:30 GMT", 90.0),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0.0),
        ("99999999999", 86400.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_header_parsed_to_seconds(header: str, wait: float | None) -> None:
    answer = HttpResponse(503, {"Retry-After": header}, b"", True)
    assert http._parse_retry_after(answer, ManualClock(NOON)) == wait


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (
            NewConnectionError(HTTPConnection("h.example"), "[Errno 111] Connection refused"),
            "[Errno 111] Connection refused",
        ),
        (
            ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")),
            "Connection aborted. [Errno 104] reset",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_connection_error_described(error: Exception, description: str) -> None:
    assert http._describe_error(error) == description
