"""Tests with the real server: streams, waiting, chunked bodies, and resources that a disconnected client releases."""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobworker.store.database.database import Database
from tests.integration.http.conftest import (
    ApiDriver,
    create_api_driver,
    insert_export_job,
    run_web_client,
    run_web_process,
)
from tests.integration.http.sse_client import parse_events
from tests.polling import TIMEOUT_SECONDS, wait_until


@pytest.fixture
def api(sqlite_database: Database) -> ApiDriver:
    """Driver whose HTTP client is not used: the served application responds instead."""
    insert_export_job(sqlite_database)
    return create_api_driver(sqlite_database)


@pytest.fixture
def server(api: ApiDriver, tmp_path: Path) -> Iterator[httpx.Client]:
    """Client of `jobworker web` on the database of `api`."""
    url = api.database.url.render_as_string(hide_password=False)
    with run_web_client(tmp_path, url, JOBWORKER_MAX_BODY="100000") as client:
        yield client


def _submit_execution(server: httpx.Client, **options: object) -> httpx.Response:
    body = {"parameters": {"user_id": "u"}}
    return server.post("/api/v1/jobs/export/executions", json=body, **options)  # type: ignore[arg-type]


def test_stream_sends_events_as_they_happen(server: httpx.Client, api: ApiDriver) -> None:
    execution = _submit_execution(server).json()["id"]
    with server.stream("GET", f"/api/v1/executions/{execution}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = parse_events(response.iter_bytes())
        assert next(events).data["state"] == "Queued"
        api.enter_state(execution, 1, "Running")
        assert next(events).data["state"] == "Running"
        api.insert_log_line(execution, 1, "hello")
        line = next(events)
        assert line.data["message"] == "hello"
        api.enter_state(execution, 1, "Succeeded")
        assert [event.kind for event in events] == ["state", "end"]
    headers = {"Last-Event-ID": str(line.id)}
    with server.stream("GET", f"/api/v1/executions/{execution}/events", headers=headers) as response:
        assert [event.kind for event in parse_events(response.iter_bytes())] == ["state", "end"]


def test_submission_with_wait_returns_the_result(server: httpx.Client, api: ApiDriver) -> None:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(_submit_execution(server, headers={"Prefer": "wait=30"})))
    thread.start()
    [execution] = wait_until(lambda: server.get("/api/v1/executions").json()["items"], what="the submission")
    api.enter_state(execution["id"], 1, "Succeeded", result={"n": 1})
    thread.join(TIMEOUT_SECONDS)
    assert (answers[0].status_code, answers[0].json()["result"]) == (200, {"n": 1})


def _count_open_streams(server: httpx.Client) -> float:
    [line] = [line for line in server.get("/metrics").text.splitlines() if line.startswith("jobworker_event_streams ")]
    return float(line.split()[1])


def test_disconnected_client_releases_its_stream(server: httpx.Client, api: ApiDriver) -> None:
    execution = _submit_execution(server).json()["id"]
    with server.stream("GET", f"/api/v1/executions/{execution}/events") as response:
        next(parse_events(response.iter_bytes()))
        assert _count_open_streams(server) == 1
    # The server notices the disconnection at the next write, so the test causes one.
    api.insert_log_line(execution, 1, "anybody there?")
    api.enter_state(execution, 1, "Running")
    wait_until(lambda: _count_open_streams(server) == 0, what="the place to be free")


def test_chunked_body_is_read_and_limited(server: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    url = "/api/v1/jobs/export/executions"
    small = iter([b'{"parameters": ', b'{"user_id": "u"}}'])
    assert server.post(url, content=small, headers=headers).status_code == 202
    large = server.post(url, content=iter([b'{"parameters": "', b"x" * 200_000, b'"}']), headers=headers)
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    assert server.post(url, content=b" " * 200_000, headers=headers).json()["code"] == "body_too_large"


def test_half_sent_body_does_not_block_other_requests(server: httpx.Client) -> None:
    with socket.create_connection((server.base_url.host, server.base_url.port or 80), TIMEOUT_SECONDS) as half:
        half.sendall(
            b"POST /api/v1/jobs/export/executions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
        )
        assert _submit_execution(server).status_code == 202
    assert _submit_execution(server).status_code == 202


def test_error_responses_are_problems_with_request_id(server: httpx.Client) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/api/v1/jobs", 405)):
        response = server.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"] == response.json()["request_id"]


def test_port_is_released_when_the_main_process_is_killed(tmp_path: Path, sqlite_url: str) -> None:
    with run_web_process(tmp_path, sqlite_url) as (client, process):
        process.send_signal(signal.SIGKILL)

        def is_free() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection((client.base_url.host, client.base_url.port or 80)).close()
                return False
            return True

        wait_until(is_free, what="the port to be free")
