"""`http.request` with real workers, against a server of the tests."""

import collections
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.services.executions import executions
from jobworker.services.jobs import jobs
from jobworker.store.executions.executions import ExecutionRow
from tests.engine import Engine
from tests.integration.isolation.conftest import get_error, wait_for_log_line
from tests.polling import wait_until
from tests.servers import find_free_port

SETTINGS = {"JOBWORKER_EGRESS": "127.0.0.1"}


class HttpTestServer(http.server.ThreadingHTTPServer):
    """Server whose response depends on the path, and which records its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HttpTestHandler)
        self.request_counts: collections.Counter[str] = collections.Counter()
        self.is_broken = False
        self.released = threading.Event()

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self.server_port}"


class _HttpTestHandler(http.server.BaseHTTPRequestHandler):
    server: HttpTestServer

    def log_message(self, *_: Any) -> None:
        """Discard log messages."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.request_counts[path] += 1
        times = self.server.request_counts[path]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.server.is_broken:
            self._answer(500, b"broken")
        elif path == "/echo":
            request = {
                "method": self.command,
                "body": body,
                "headers": {name.lower(): v for name, v in self.headers.items()},
            }
            self._answer(201, json.dumps(request).encode(), {"X-Long": "x" * 5000})
        elif path == "/later":
            self._answer(503, b"later", {"Retry-After": "1"}) if times == 1 else self._answer(200, b"now")
        elif path == "/missing":
            self._answer(404, b"nothing here")
        elif path == "/moved":
            self._answer(302, b"", {"Location": "/echo"})
        elif path == "/large":
            self._answer(200, "é\0".encode() * 500_000)
        elif path == "/silent":
            self.server.released.wait(60)
        elif path == "/drip":
            self._drip()
        else:
            self._answer(200, b"fine")

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  the names that the base class calls

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while not self.server.released.wait(0.05):
                self.wfile.write(b".")


@pytest.fixture
def site() -> Iterator[HttpTestServer]:
    with HttpTestServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def submit_request(engine: Engine, url: str, attempts: int = 1, job: str = "http.request", **parameters: Any) -> str:
    """Submit a request."""
    return engine.submit_one(job, parameters={"url": url, **parameters}, retry={"max_attempts": attempts})


def wait_for_result(engine: Engine, execution: str) -> dict[str, Any]:
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.SUCCEEDED, (row.error, row.reason)
    assert row.result is not None
    return dict(row.result)


def test_builtin_tasks_are_in_the_catalog(engine: Engine) -> None:
    tasks = {name: jobs.get_task(engine.database, name) for name in ("http.request", "shell.run", "container.run")}
    assert [parameter.name for parameter in tasks["shell.run"].parameters] == ["command", "input"]
    assert [parameter.name for parameter in tasks["container.run"].parameters] == ["**"]
    shown = {parameter.name: parameter for parameter in tasks["http.request"].parameters}
    assert shown["url"].required
    assert "PATCH" in (shown["method"].choices or ())
    assert (shown["timeout"].type, shown["timeout"].default) == ("number", 30.0)


def test_request_sends_its_body_and_returns_the_response(engine: Engine, site: HttpTestServer) -> None:
    as_json = submit_request(
        engine, f"{site.url}/echo?secret=1", method="POST", json={"a": [1]}, headers={"X-Mine": "yes"}
    )
    as_text = submit_request(engine, f"{site.url}/echo", method="PUT", body="plain")
    moved = submit_request(engine, f"{site.url}/moved")
    accepted = submit_request(engine, f"{site.url}/missing", success_codes="200, 400-404")
    large = submit_request(engine, f"{site.url}/large")

    result = wait_for_result(engine, as_json)
    echoed = json.loads(result["body"])
    assert (result["status"], result["complete"]) == (201, True)
    assert (echoed["method"], json.loads(echoed["body"])) == ("POST", {"a": [1]})
    assert (echoed["headers"]["x-mine"], echoed["headers"]["content-type"]) == ("yes", "application/json")
    assert len(result["headers"]["X-Long"]) == 200
    line = wait_for_log_line(engine, as_json, "POST http")
    assert line.message == f"POST {site.url}: 201"

    echoed = json.loads(wait_for_result(engine, as_text)["body"])
    assert (echoed["method"], echoed["body"]) == ("PUT", "plain")
    assert json.loads(wait_for_result(engine, moved)["body"])["method"] == "GET"
    assert wait_for_result(engine, accepted)["status"] == 404
    result = wait_for_result(engine, large)
    assert result["complete"] is False
    assert len(json.dumps(result)) < 64 * 1024
    assert result["body"].startswith("é\N{REPLACEMENT CHARACTER}é")


def test_failures_are_recorded_with_their_reason(engine: Engine, site: HttpTestServer) -> None:
    nobody = f"http://127.0.0.1:{find_free_port()}"
    execution_ids = {
        "status": submit_request(engine, f"{site.url}/missing"),
        "nobody": submit_request(engine, nobody),
        "silent": submit_request(engine, f"{site.url}/silent", timeout=0.5),
        "drip": submit_request(engine, f"{site.url}/drip", timeout=0.5),
        "scheme": submit_request(engine, "ftp://example.org/file"),
        "no host": submit_request(engine, "http:///path"),
        "port": submit_request(engine, "http://host:port/"),
        "codes": submit_request(engine, site.url, success_codes="2xx"),
        "both": submit_request(engine, site.url, body="a", json=1),
        "timeout": submit_request(engine, site.url, timeout=0),
        "header": submit_request(engine, site.url, headers={"X-Mine": "two\r\nlines"}),
        "private": submit_request(engine, "http://10.0.0.1/"),
        "disguised": submit_request(engine, "http://2130706433/"),
    }
    ends = {name: get_error(engine.wait_until_final(execution)) for name, execution in execution_ids.items()}
    assert {name: error["type"] for name, error in ends.items()} == {
        "status": "UnexpectedStatus",
        **dict.fromkeys(["nobody", "silent", "drip"], "RequestFailed"),
        **dict.fromkeys(
            ["scheme", "no host", "port", "codes", "both", "timeout", "header", "private", "disguised"], "Abort"
        ),
    }
    assert ends["status"]["message"] == f"GET {site.url} responded with 404: nothing here"
    assert "Connection refused" in ends["nobody"]["message"]
    assert "timed out" in ends["silent"]["message"].lower()
    assert ends["private"]["message"] == (
        "GET http://10.0.0.1:80: 10.0.0.1:80 is not a public address, "
        "and JOBWORKER_EGRESS of this worker does not list it"
    )
    assert "lines" not in ends["header"]["message"]
    assert ends["drip"]["message"] == f"GET {site.url}: timed out: the response was incomplete after 0.5 s"


def test_retry_after_header_delays_the_retry(engine: Engine, site: HttpTestServer) -> None:
    again = submit_request(engine, f"{site.url}/later", attempts=2)
    row = engine.wait_until_final(again)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2), row.error
    first, _ = executions.list_attempts(engine.database, again).items
    assert first.reason == f"{site.url} responded with 503 and requests a retry after 1 s"


def test_circuit_opens_snoozes_and_closes(engine: Engine, site: HttpTestServer) -> None:
    site.is_broken = True
    circuit = {**policies.DEFAULTS, "circuit": {"failures": 3, "pause": 4}}
    jobs.create(engine.database, SystemClock(), JobDefinition("careful", "http.request", policies=circuit), "test")
    for number in range(3):
        row = engine.wait_until_final(submit_request(engine, f"{site.url}/{number}", job="careful"))
        assert get_error(row)["type"] == "UnexpectedStatus"
    site.is_broken = False
    put_off = [submit_request(engine, f"{site.url}/after-{number}", job="careful") for number in range(4)]

    def all_wait() -> bool:
        return all(engine.get(execution).state is ExecutionState.RETRYING for execution in put_off)

    wait_until(all_wait, what="executions that wait")
    assert wait_for_result(engine, submit_request(engine, f"{site.url}/other"))["status"] == 200, (
        "another job has its own circuit"
    )
    assert "is open: it failed several times in a row" in (engine.get(put_off[0]).reason or "")
    assert not [path for path in site.request_counts if path.startswith("/after")]

    rows: list[ExecutionRow] = [engine.wait_until_final(execution) for execution in put_off]
    assert {row.state for row in rows} == {ExecutionState.SUCCEEDED}, [row.error for row in rows]
    # Each execution had only one attempt.
    assert all(site.request_counts[f"/after-{number}"] == 1 for number in range(4))
