"""Slow and numerous clients of the service as `jobworker web` starts it: they harm nobody else."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from jobworker.api.room import MAX_STREAMS_OF_ONE
from jobworker.store.database import Database
from tests.integration.http.conftest import seed, served
from tests.waiting import PATIENCE

_SUBMISSION = "/api/v1/jobs/export/executions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[httpx.Client]:
    """`jobworker web` on a database of its own, for all the tests here."""
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder / 'jobworker.db'}"
    (folder / "jobworker.db").write_bytes(_sqlite_template.read_bytes())
    database = Database(url)
    seed(database)
    database.dispose()
    with served(folder, url) as client:
        yield client


def _submit(server: httpx.Client) -> httpx.Response:
    return server.post(_SUBMISSION, json={"parameters": {"user_id": "u"}})


def _address(server: httpx.Client) -> tuple[str, int]:
    return server.base_url.host, server.base_url.port or 80


def test_unfinished_bodies_take_no_thread(server: httpx.Client) -> None:
    head = (
        f"POST {_SUBMISSION} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{{"
    )
    with ExitStack() as unfinished:
        for _ in range(150):
            connection = unfinished.enter_context(socket.create_connection(_address(server), PATIENCE))
            connection.sendall(head.encode())
        for _ in range(5):
            assert server.get("/healthz").status_code == 200
            assert _submit(server).status_code == 202


def test_a_body_that_is_too_large_is_not_waited_for(server: httpx.Client) -> None:
    with socket.create_connection(_address(server), PATIENCE) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n{")
        assert b"body_too_large" in connection.recv(10_000)


def test_many_streams_of_one_client_leave_places_for_others(server: httpx.Client) -> None:
    made = _submit(server).json()["id"]
    with ExitStack() as streams:
        statuses = []
        for _ in range(64):
            connection = streams.enter_context(socket.create_connection(_address(server), PATIENCE))
            connection.sendall(f"GET /api/v1/executions/{made}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            statuses.append(int(connection.recv(12).split()[1]))
        assert statuses == [200] * MAX_STREAMS_OF_ONE + [429] * (64 - MAX_STREAMS_OF_ONE)
        refused = server.get(f"/api/v1/executions/{made}/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert "retry-after" in refused.headers
        assert server.get("/healthz").status_code == 200
        assert _submit(server).status_code == 202


def test_invented_methods_make_no_series(server: httpx.Client) -> None:
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
def test_paths_are_decoded_as_by_any_wsgi_server(server: httpx.Client, path: str, status: int, code: str) -> None:
    response = server.get(path)
    assert (response.status_code, response.json().get("code")) == (status, code)


def test_a_large_response_and_one_without_a_body_are_whole(server: httpx.Client) -> None:
    script = server.get("/docs/swagger-ui-bundle.js")
    assert len(script.content) == int(script.headers["content-length"]) > 1024 * 1024
    head = server.head("/docs/swagger-ui-bundle.js")
    assert (head.content, head.headers["content-length"]) == (b"", script.headers["content-length"])
