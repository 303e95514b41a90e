"""Relay and worker, with a pool of processes and with a pool of threads, shared by the tests of a module."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.services.executions import executions
from jobworker.store import migrate
from jobworker.store.database.database import Database
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.timeline import LogRow
from tests.engine import Engine, run_engine
from tests.polling import wait_until
from tests.servers import RedisServer, ServerProcess, run_server

#: Pools on which isolated jobs are tested.
POOLS = ["prefork", "threads"]


@contextlib.contextmanager
def run_engine_in(folder: Path) -> Iterator[Engine]:
    """Yield an engine with its own Redis and SQLite database, without processes."""
    server, url = RedisServer(folder / "redis"), f"sqlite:///{folder / 'jobworker.db'}"
    migrate.upgrade(url)
    database = Database(url)
    with run_server(server), contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(database.dispose)
        yield stack.enter_context(run_engine(folder, database, url, server.url))


@pytest.fixture(scope="module", params=POOLS)
def running_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, ServerProcess]]:
    """Engine with a relay and a worker with four slots, with the `SETTINGS` of the module."""
    with run_engine_in(tmp_path_factory.mktemp(request.param)) as engine:
        engine.start_relay()
        settings = getattr(request.module, "SETTINGS", {})
        worker = engine.start_worker("--pool", request.param, "-c", "4", **settings)
        engine.wait_until_ready("describe_process")
        yield engine, worker


@pytest.fixture
def engine(running_engine: tuple[Engine, ServerProcess]) -> Engine:
    """Engine that the tests of a module share."""
    return running_engine[0]


@pytest.fixture
def worker(running_engine: tuple[Engine, ServerProcess]) -> ServerProcess:
    """Worker of the engine."""
    return running_engine[1]


def list_start_pids(engine: Engine, execution: str) -> list[int]:
    """Return the ids of the processes that recorded a start of this execution."""
    lines = engine.activity_log.read_text().splitlines() if engine.activity_log.exists() else []
    words = [line.split() for line in lines]
    return [int(pid) for execution_id, _, activity, pid in words if (execution_id, activity) == (execution, "start")]


def wait_until_started(engine: Engine, execution: str) -> list[int]:
    """Wait for the start of an execution and return the ids of its processes."""
    wait_until(lambda: engine.is_running(execution), what=f"{execution} to begin; logs in {engine.folder}")
    return list_start_pids(engine, execution)


def list_log_lines(engine: Engine, execution: str) -> list[LogRow]:
    """Return the latest lines of an execution's log."""
    return list(executions.list_log_lines(engine.database, execution, limit=200).items)


def wait_for_log_line(engine: Engine, execution: str, text: str) -> LogRow:
    """Wait for the log line with this text and return it."""

    def found() -> LogRow | None:
        return next((line for line in list_log_lines(engine, execution) if text in line.message), None)

    line = wait_until(found, what=f"{text!r} in the log")
    assert line is not None
    return line


def get_error(row: ExecutionRow) -> dict[str, Any]:
    assert row.error is not None
    return dict(row.error)
