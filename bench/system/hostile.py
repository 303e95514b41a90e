"""Benchmark of the effect of slow, numerous and expensive HTTP clients on other clients.

`python -m bench.system.hostile KIND PORT EXECUTION` is such a hostile client: a separate process that runs until it
is killed.
"""

import contextlib
import http.client
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from bench.harness import compute_p99, pace
from bench.report import Measurement
from bench.system.systems import HttpClient, JobWorkerStack

#: Rate (1/s) and duration (s) of the paced requests of the well-behaved client, half to each URL.
_REQUESTS_PER_SECOND, _DURATION_SECONDS = 40, 10

#: Number of jobs among which a name is searched, and number of executions that a filter without matches scans.
_JOB_COUNT, _EXECUTION_COUNT = 100_000, 200_000

_JSON_HEADERS = {"Content-Type": "application/json"}
_BATCH_PATH = "/api/v1/executions/batch"


def measure_hostile_clients(ours: JobWorkerStack) -> list[Measurement]:
    """Measure median and p99 of `GET /healthz` and `GET /jobs/{name}`: alone, and with each kind of hostile client."""
    execution = _insert_data(ours)
    rows = []
    for kind in ("alone", *_CLIENT_KINDS):
        with _run_hostile_client(kind, ours.http.port, execution):
            round_trips = _measure_round_trips(ours.http)
        label = f"another client's requests, {kind.replace('-', ' ')}"
        rows.append(Measurement(f"{label}, p50", "ms", round_trips[len(round_trips) // 2] * 1e3))
        rows.append(Measurement(f"{label}, p99", "ms", compute_p99(round_trips) * 1e3))
    return rows


def _insert_data(ours: JobWorkerStack) -> str:
    """Add jobs, and executions that are not due; return the id of one."""
    with contextlib.closing(sqlite3.connect(ours.database, timeout=60)) as connection, connection:
        table = connection.execute("PRAGMA table_info(job_definitions)")
        columns = ", ".join("'noop-' || value" if row[1] == "name" else row[1] for row in table)
        connection.execute(
            f"WITH RECURSIVE numbers(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM numbers LIMIT {_JOB_COUNT}) "
            f"INSERT OR IGNORE INTO job_definitions SELECT {columns} FROM job_definitions, numbers WHERE name = 'noop'"
        )
    for _ in range(_EXECUTION_COUNT // 10_000):
        ours.http.submit(_BATCH_PATH, {"executions": [{"job": "noop", "delay": 1_000_000}] * 10_000})
    return str(ours.http.request("GET", "/api/v1/executions?limit=1")[1]["items"][0]["id"])


def _measure_round_trips(client: HttpClient) -> list[float]:
    seconds = []
    for number in pace(_REQUESTS_PER_SECOND, _DURATION_SECONDS):
        began = time.perf_counter()
        status, answer = client.request("GET", "/healthz" if number % 2 else "/api/v1/jobs/noop")
        seconds.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"the other client was refused: {status} {answer}")
    return sorted(seconds)


@contextlib.contextmanager
def _run_hostile_client(kind: str, port: int, execution: str) -> Iterator[None]:
    if kind == "alone":
        yield
        return
    with subprocess.Popen([sys.executable, "-m", "bench.system.hostile", kind, str(port), execution]) as client:
        try:
            time.sleep(1)  # Time to open its connections.
            if client.poll() is not None:
                raise RuntimeError(f"the hostile client ended: {kind}")
            yield
        finally:
            client.kill()


def _repeat_requests(port: int, clients: int, requests: Callable[[int], tuple[str, str, bytes | None]]) -> None:
    """Send the requests that `requests` creates from numbers over `clients` connections, each without a pause."""
    numbers = itertools.count()

    def send() -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    method, path, body = requests(next(numbers))
                    connection.request(method, path, body, _JSON_HEADERS if body else {})
                    connection.getresponse().read()

    for _ in range(clients):
        threading.Thread(target=send).start()


def _hold_connections(port: int, count: int, head: str) -> None:
    """Keep `count` connections open that have sent `head`; reopen those that end."""

    def hold() -> None:
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.connect()
                connection.sock.sendall(head.encode())
                while connection.sock.recv(65536):
                    pass
            time.sleep(1)

    for _ in range(count):
        threading.Thread(target=hold).start()


def _make_request_head(line: str, *fields: str) -> str:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: x", *fields, "", ""])


_UNFINISHED_REQUEST = (
    _make_request_head(f"POST {_BATCH_PATH}", "Content-Type: application/json", "Content-Length: 1000000") + "{"
)
_MANY_ARRAYS = b"[" + b",".join([b"[]"] * 5_000_000) + b"]"

#: Behavior of each kind of hostile client, as a function of (port, id of an execution).
_CLIENT_KINDS: dict[str, Callable[[int, str], None]] = {
    "150-unfinished-bodies": lambda port, _: _hold_connections(port, 150, _UNFINISHED_REQUEST),
    "2-senders-of-15-MiB-of-[]": lambda port, _: _repeat_requests(
        port, 2, lambda _: ("POST", _BATCH_PATH, _MANY_ARRAYS)
    ),
    "64-event-streams": lambda port, execution: _hold_connections(
        port, 64, _make_request_head(f"GET /api/v1/executions/{execution}/events")
    ),
    "4-that-invent-methods": lambda port, _: _repeat_requests(port, 4, lambda number: (f"M{number}", "/healthz", None)),
    "4-that-ask-for-unknown-names": lambda port, _: _repeat_requests(
        port, 4, lambda number: ("GET", f"/api/v1/jobs/noop-{number}x", None)
    ),
    "4-with-filters-without-index": lambda port, _: _repeat_requests(
        port, 4, lambda number: ("GET", f"/api/v1/executions?error_type=None{number}", None)
    ),
    "4-that-behave": lambda port, _: _repeat_requests(port, 4, lambda _: ("GET", "/api/v1/jobs/noop", None)),
}

if __name__ == "__main__":
    _CLIENT_KINDS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
