"""Slow and numerous clients of `jobworker web`: they do not affect other clients."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from jobworker.api.context import MAX_STREAMS_PER_CLIENT
from jobworker.store.database.database import Database
from tests.integration.http.conftest import insert_export_job, run_web_client
from tests.polling import TIMEOUT_SECONDS, wait_until

_SUBMIT_PATH = "/api/v1/jobs/export/executions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[httpx.Client]:
    """Client of `jobworker web` on its own database, shared by all tests of this module."""
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder / 'jobworker.db'}"
    (folder / "jobworker.db").write_bytes(_sqlite_template.read_bytes())
    database = Database(url)
    insert_export_job(database)
    database.dispose()
    with run_web_client(folder, url) as client:
        yield client


def _submit_execution(server: httpx.Client) -> httpx.Response:
    return server.post(_SUBMIT_PATH, json={"parameters": {"user_id": "u"}})


def _get_address(server: httpx.Client) -> tuple[str, int]:
    return server.base_url.host, server.base_url.port or 80


def _make_request_head(headers: str) -> str:
    """Return the head of a submission whose body is never sent."""
    more = "Content-Type: application/json\r\nContent-Length: 1000000"
    return f"POST {_SUBMIT_PATH} HTTP/1.1\r\n{headers}\r\n{more}\r\n\r\n{{"


def test_unfinished_bodies_occupy_no_thread(server: httpx.Client) -> None:
    head = _make_request_head("Host: localhost")
    with ExitStack() as unfinished:
        for _ in range(150):
            connection = unfinished.enter_context(socket.create_connection(_get_address(server), TIMEOUT_SECONDS))
            connection.sendall(head.encode())
        for _ in range(5):
            assert server.get("/healthz").status_code == 200
            assert _submit_execution(server).status_code == 202


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ("Host: evil.example", "unknown_host"),
        ("Host: localhost\r\nHost: evil.example", "unknown_host"),
        ("Host: localhost\r\nOrigin: https://evil.example", "cross_site"),
    ],
)
def test_cross_site_request_is_rejected_before_its_body_is_read(server: httpx.Client, headers: str, code: str) -> None:
    with socket.create_connection(_get_address(server), TIMEOUT_SECONDS) as connection:
        connection.sendall(_make_request_head(headers).encode())
        assert code in connection.recv(10_000).decode()


def test_oversized_body_is_rejected_before_it_is_received(server: httpx.Client) -> None:
    with socket.create_connection(_get_address(server), TIMEOUT_SECONDS) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n{")
        assert b"body_too_large" in connection.recv(10_000)


def test_streams_of_one_client_are_limited(server: httpx.Client) -> None:
    execution = _submit_execution(server).json()["id"]
    with ExitStack() as streams:
        statuses = []
        for _ in range(64):
            connection = streams.enter_context(socket.create_connection(_get_address(server), TIMEOUT_SECONDS))
            connection.sendall(
                f"GET /api/v1/executions/{execution}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            statuses.append(int(connection.recv(12).split()[1]))
        assert statuses == [200] * MAX_STREAMS_PER_CLIENT + [429] * (64 - MAX_STREAMS_PER_CLIENT)
        refused = server.get(f"/api/v1/executions/{execution}/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert "retry-after" in refused.headers
        assert server.get("/healthz").status_code == 200
        assert _submit_execution(server).status_code == 202


def test_unknown_methods_create_no_metric_series(server: httpx.Client) -> None:
    for number in range(20):
        assert server.request(f"INVENTED{number}", "/healthz").status_code == 405
    metrics = server.get("/metrics").text
    assert "INVENTED" not in metrics
    assert 'method="other",route="none",status="405"} 20.0' in metrics


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/jobs/export", 200, None),
        ("/api/v1/jobs/%65xport", 200, None),
        ("/api/v1/jobs/ex%2fport", 404, "route_not_found"),
        ("/api/v1/jobs/%c3%a9", 404, "job_not_found"),
        ("/api/v1/jobs/%ff%00", 404, "job_not_found"),
    ],
)
def test_paths_are_decoded_as_by_wsgi_servers(server: httpx.Client, path: str, status: int, code: str) -> None:
    response = server.get(path)
    assert (response.status_code, response.json().get("code")) == (status, code)


def _read_response(server: httpx.Client, request: bytes, ends: bool = False) -> bytes:
    with socket.create_connection(_get_address(server), TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(10_000), b""))


@pytest.mark.parametrize("chunks", [b"", b"1f\r\n", b'5\r\n{"par', b"zz\r\n{}\r\n0\r\n\r\n"])
def test_incomplete_chunked_body_submits_nothing(server: httpx.Client, chunks: bytes) -> None:
    fields = "Host: localhost", "Connection: close", "Content-Type: application/json", "Transfer-Encoding: chunked"
    head = "\r\n".join([f"POST {_SUBMIT_PATH} HTTP/1.1", *fields, "", ""]).encode()
    before = server.get("/metrics").text
    assert b" 202 " not in _read_response(server, head + chunks, ends=True)
    wait_until(lambda: _count_submissions(server.get("/metrics").text, 400) == _count_submissions(before, 400) + 1)
    body = b'{"parameters":{"user_id":"u"}}'
    assert b" 202 " in _read_response(server, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def _count_submissions(metrics: str, status: int) -> float:
    """Return the number of submissions with this response status."""
    match = re.search(
        rf'requests_total{{.*route="/api/v1/jobs/<string:name>/executions",status="{status}"}} (.*)', metrics
    )
    return float(match[1]) if match else 0.0


def test_non_ascii_idempotency_key_is_rejected(server: httpx.Client) -> None:
    head = f"POST {_SUBMIT_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n"
    answer = _read_response(server, head.encode() + b"Idempotency-Key: \xc3\xa4\r\n\r\n")
    assert b" 422 " in answer.splitlines()[0]
    assert b"the header idempotency-key may have printable ASCII characters only" in answer


@pytest.mark.parametrize("path", ["/healthz?\xe4", "/api/v1/executions?job=\xe4"])
def test_unencoded_query_is_read(server: httpx.Client, path: str) -> None:
    answer = _read_response(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"200", b"422")


def test_large_and_bodyless_responses_are_complete(server: httpx.Client) -> None:
    script = server.get("/docs/swagger-ui-bundle.js")
    assert len(script.content) == int(script.headers["content-length"]) > 1024 * 1024
    head = server.head("/docs/swagger-ui-bundle.js")
    assert (head.content, head.headers["content-length"]) == (b"", script.headers["content-length"])
