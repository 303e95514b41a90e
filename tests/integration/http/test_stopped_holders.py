"""Stopped lock holders (SIGSTOP): requests that need the lock get a 503 soon, all others succeed."""

import concurrent.futures
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.store.database.database import Database
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job
from tests.integration.http.test_real_server import server
from tests.polling import wait_until
from tests.servers import ServerProcess

#: Number of clients: as many as the server has threads.
_CLIENT_COUNT = 64

#: Maximum response time (s): the server responds after 4 s, and a busy machine may need longer.
_MAX_RESPONSE_SECONDS = 15.0

_HOLD_FILE_LOCK = """
import fcntl, sys, time
file = open(sys.argv[1] + ".lock", "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""

_HOLD_TRANSACTION = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""

_HOLD_ROW_LOCKS = """
import psycopg, sys, time
connection = psycopg.connect(sys.argv[1])
connection.execute("SELECT id FROM executions FOR UPDATE")
print("held", flush=True)
time.sleep(600)
"""

StopHolder = Callable[[str, str], ServerProcess]

__all__ = ["server"]


@pytest.fixture
def stop_holder(tmp_path: Path) -> Iterator[StopHolder]:
    """Function that starts a program, waits until it holds a lock, and stops it."""
    with contextlib.ExitStack() as started:

        def stop(program: str, argument: str) -> ServerProcess:
            process = ServerProcess([sys.executable, "-c", program, argument], tmp_path / "holder.log")
            started.callback(process.terminate)

            def holds() -> bool:
                process.check_alive()
                return "held" in process.log.read_text()

            wait_until(holds, what="the lock to be taken")
            process.send_signal(signal.SIGSTOP)
            return process

        yield stop


def _get_file(database: Database) -> str:
    return str(database.url.database)


def _measure_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    clock = SystemClock()
    began = clock.monotonic()
    return work(), clock.monotonic() - began


def test_submission_returns_503_while_file_lock_holder_is_stopped(api: ApiDriver, stop_holder: StopHolder) -> None:
    holder = stop_holder(_HOLD_FILE_LOCK, _get_file(api.database))
    first, waited = _measure_seconds(api.submit)
    assert (first.status_code, first.json["code"]) == (503, "database_busy")
    assert "nothing was changed" in first.json["detail"]
    assert first.headers["Retry-After"] == "2"
    assert waited < _MAX_RESPONSE_SECONDS
    assert api.client.get("/healthz").status_code == 200
    assert api.client.get("/api/v1/executions").json["items"] == []
    # Later requests get their response sooner, also those that do not share a commit.
    pause, waited = _measure_seconds(lambda: api.client.post("/api/v1/queues/default/pause"))
    assert (pause.status_code, pause.json["code"]) == (503, "database_busy")
    assert waited < 3.0
    holder.terminate()
    wait_until(lambda: api.submit().status_code == 202, what="work to be accepted again")
    assert api.count_rows("executions") == 1


def test_submission_returns_503_while_transaction_holder_is_stopped(api: ApiDriver, stop_holder: StopHolder) -> None:
    holder = stop_holder(_HOLD_TRANSACTION, _get_file(api.database))
    answer, waited = _measure_seconds(api.submit)
    assert (answer.status_code, answer.json["code"]) == (503, "database_busy")
    assert waited < _MAX_RESPONSE_SECONDS
    assert api.client.get("/api/v1/executions").json["items"] == []
    holder.terminate()
    api.submit_accepted()


def test_cancel_returns_503_while_row_lock_holder_is_stopped(postgres_url: str, stop_holder: StopHolder) -> None:
    database = Database(postgres_url)
    insert_export_job(database)
    api = create_api_driver(database)
    execution = api.submit_accepted()["id"]
    stop_holder(_HOLD_ROW_LOCKS, postgres_url.replace("+psycopg", ""))
    answer, waited = _measure_seconds(lambda: api.client.post(f"/api/v1/executions/{execution}/cancel"))
    assert (answer.status_code, answer.json["code"]) == (503, "database_busy")
    assert waited < _MAX_RESPONSE_SECONDS
    api.submit_accepted()
    database.dispose()


def test_requests_without_the_lock_are_served_meanwhile(
    server: httpx.Client, api: ApiDriver, stop_holder: StopHolder
) -> None:
    def submit(_: int) -> tuple[int, str]:
        answer = server.post("/api/v1/jobs/export/executions", json={"parameters": {"user_id": "u"}})
        return answer.status_code, answer.json()["code"]

    stop_holder(_HOLD_FILE_LOCK, _get_file(api.database))
    with concurrent.futures.ThreadPoolExecutor(_CLIENT_COUNT) as clients:
        for _ in range(2):
            waiting = [clients.submit(submit, number) for number in range(_CLIENT_COUNT)]
            health, waited = _measure_seconds(lambda: server.get("/healthz"))
            assert health.status_code == 200
            assert waited < _MAX_RESPONSE_SECONDS
            assert {future.result() for future in waiting} == {(503, "database_busy")}


def test_full_disk_returns_503(api: ApiDriver) -> None:
    pages = _read_scalar(api.database, "PRAGMA page_count")
    engine = api.app.extensions["jobworker"].database._writer
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count={pages}"))
    large = {"executions": [{"job": "export", "parameters": {"user_id": "u" * 300}}] * 200}
    answer = api.client.post("/api/v1/executions/batch", json=large)
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert api.count_rows("executions") == 0


def test_log_kept_long_by_a_reader_returns_503(api: ApiDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobworker.store.database.write_ahead_log.MAX_LOG_BYTES", 0)
    with api.database.read() as connection:
        connection.execute(sa.text("SELECT count(*) FROM executions"))
        answer = api.submit()
        assert (answer.status_code, answer.json["code"]) == (503, "database_busy")
        assert "write-ahead log" in answer.json["detail"]
        ready = api.client.get("/readyz").json
        assert ready["status"] == "unready"
        assert "write-ahead log" in ready["checks"]["database"]["detail"]
    assert api.count_rows("executions") == 0


def _read_scalar(database: Database, statement: str) -> Any:
    with database.read() as connection:
        return connection.scalar(sa.text(statement))
