"""Application under test, and a driver with its client and database."""

import contextlib
import datetime as dt
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from flask import Flask

from jobworker.api.endpoints import events
from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.services.executions import execution_stream
from jobworker.settings import Settings
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.tables import core
from jobworker.store.tasks import TaskRow
from jobworker.web import create_app
from tests.integration.http.openapi_client import OpenApiTestClient
from tests.polling import TIMEOUT_SECONDS, wait_until
from tests.servers import ServerProcess, find_free_port

EXPORT_TASK = TaskRow(
    name="tasks.exports.export",
    description="Exports.",
    parameters=(
        Parameter("user_id", "string"),
        Parameter("format", "string", required=False, default="csv", choices=("csv", "json")),
        Parameter("rows", "integer", required=False, default=10),
        Parameter("options", "any", required=False, nullable=True),
    ),
    options={"queue": "background"},
    code_version="v1",
    updated_at=dt.datetime(2026, 3, 2, tzinfo=dt.UTC),
)


@dataclass
class ApiDriver:
    """Client of the API, and the database behind it."""

    app: Flask
    #: An `OpenApiTestClient`. Typed as `Any`, because the tests index the JSON of its responses without checks.
    client: Any
    database: Database

    def submit(self, body: dict[str, Any] | None = None, job: str = "export", **options: Any) -> Any:
        """Submit one execution."""
        request_body = {"parameters": {"user_id": "u-17"}} if body is None else body
        return self.client.post(f"/api/v1/jobs/{job}/executions", json=request_body, **options)

    def submit_accepted(self, body: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Submit an execution, check that it was accepted, and return it."""
        response = self.submit(body, **options)
        assert response.status_code == 202, response.json
        execution: dict[str, Any] = response.json
        return execution

    def update_execution(self, execution_id: str, **values: Any) -> None:
        """Update columns of an execution, as the report of a worker would."""
        table = core.executions
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(table.c.id == execution_id).values(**values))

    def enter_state(self, execution_id: str, attempt: int, state: str, **values: Any) -> None:
        """Move an execution to a state, with its transition."""
        now = SystemClock().now()
        self.update_execution(execution_id, attempt=attempt, state=state, **values)
        entered = {"execution_id": execution_id, "attempt": attempt, "state": state, "at": now, "actor": "worker:w"}
        self.insert_row("transitions", **entered, reason=values.get("reason"))

    def insert_log_line(self, execution_id: str, seq: int, message: str) -> None:
        """Insert a log line."""
        self.insert_row(
            "execution_logs",
            execution_id=execution_id,
            seq=f"{seq:013}-00000",
            attempt=1,
            at=SystemClock().now(),
            level="INFO",
            logger="job",
            message=message,
        )

    def insert_worker(
        self, worker_id: str = "w1", queues: tuple[str, ...] = ("default",), is_gone: bool = False
    ) -> None:
        """Insert a live worker that runs the export task."""
        now = SystemClock().now()
        self.insert_row(
            "workers",
            id=worker_id,
            host="h",
            pid=1,
            pool="prefork",
            concurrency=2,
            queues=list(queues),
            tasks=[EXPORT_TASK.name],
            code_version="v1",
            started_at=now,
            seen_at=now,
            gone_at=now if is_gone else None,
        )

    def create_queue(self, name: str) -> None:
        """Create a queue."""
        assert self.client.put(f"/api/v1/queues/{name}").status_code == 201

    def insert_row(self, table: str, **values: Any) -> None:
        """Insert one row."""
        with self.database.write() as connection:
            connection.execute(sa.insert(core.metadata.tables[table]).values(**values))

    def count_rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        with self.database.read() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(core.metadata.tables[table]))
        return count or 0


def insert_export_job(database: Database) -> None:
    """Insert a task, and a job for it that was declared in code."""
    now = SystemClock().now()
    with database.write() as connection:
        tasks.upsert(connection, EXPORT_TASK)
        jobs.upsert(connection, JobDefinition("export", EXPORT_TASK.name), JobOwner.CODE, "relay", now)


def make_settings(database_url: str, **values: str) -> Settings:
    """Return settings for tests; without a given URL, Redis is a port without a server."""
    return Settings.from_environment(
        {
            "JOBWORKER_DATABASE_URL": database_url,
            "JOBWORKER_REDIS_URL": f"redis://127.0.0.1:{find_free_port()}/0",
            **{f"JOBWORKER_{name}": value for name, value in values.items()},
        }
    )


def create_api_driver(database: Database, **values: str) -> ApiDriver:
    """Return a driver for the application on this database."""
    app = create_app(make_settings(database.url.render_as_string(hide_password=False), **values))
    app.test_client_class = OpenApiTestClient
    client = app.test_client()
    assert isinstance(client, OpenApiTestClient)
    return ApiDriver(app, client, database)


@pytest.fixture
def api(sqlite_database: Database) -> Iterator[ApiDriver]:
    """Driver for the application on SQLite."""
    yield from _create_seeded_driver(sqlite_database)


@pytest.fixture
def any_api(database: Database) -> Iterator[ApiDriver]:
    """Driver for the application, on SQLite, then on PostgreSQL."""
    yield from _create_seeded_driver(database)


@pytest.fixture
def no_wait_for_late_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let streams end without waiting for late log lines."""
    monkeypatch.setattr(events, "_LATE_LINES_SECONDS", 0.0)
    monkeypatch.setattr(execution_stream, "_LOG_TIMEOUT_SECONDS", 0.0)


def _create_seeded_driver(database: Database) -> Iterator[ApiDriver]:
    insert_export_job(database)
    api = create_api_driver(database)
    yield api
    api.app.extensions["jobworker"].database.dispose()


@contextlib.contextmanager
def run_web_client(folder: Path, database_url: str, **environment: str) -> Iterator[httpx.Client]:
    """Yield a client of `jobworker web` on this database; `environment` are environment variables."""
    with run_web_process(folder, database_url, **environment) as (client, _):
        yield client


@contextlib.contextmanager
def run_web_process(folder: Path, database_url: str, **overrides: str) -> Iterator[tuple[httpx.Client, ServerProcess]]:
    """Yield a client of `jobworker web` on this database, and its process."""
    port = find_free_port()
    environment = {
        **os.environ,
        "JOBWORKER_DATABASE_URL": database_url,
        "JOBWORKER_REDIS_URL": make_settings(database_url).redis_url,
        "JOBWORKER_BIND": f"127.0.0.1:{port}",
        **overrides,
    }
    process = ServerProcess([sys.executable, "-m", "jobworker.cli", "web"], folder / "web.log", environment=environment)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_SECONDS) as client:

        def answers() -> bool:
            process.check_alive()
            try:
                return client.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, what="the service")
        yield client, process
    process.terminate(signal.SIGTERM)
