"""A relay and a worker, once with a pool of processes and once with one of threads, shared by the tests of a module."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.services import executions
from jobworker.store import migrate
from jobworker.store.engine.database import Database
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.timeline import LogRow
from tests.engine import Engine, run_engine
from tests.polling import until
from tests.servers import RedisServer, ServerProcess, run_server

#: The pools on which isolated jobs are tried.
POOLS = ["prefork", "threads"]


@contextlib.contextmanager
def run_engine_in(folder: Path) -> Iterator[Engine]:
    """An engine with a Redis and a SQLite of its own; nothing is started yet."""
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
    """With a relay and a worker that runs four jobs at a time, with the `SETTINGS` of the module."""
    with run_engine_in(tmp_path_factory.mktemp(request.param)) as engine:
        engine.start_relay()
        settings = getattr(request.module, "SETTINGS", {})
        worker = engine.start_worker("--pool", request.param, "-c", "4", **settings)
        engine.wait_until_ready("tells_of_itself")
        yield engine, worker


@pytest.fixture
def engine(running_engine: tuple[Engine, ServerProcess]) -> Engine:
    """The engine that the tests of a module share."""
    return running_engine[0]


@pytest.fixture
def worker(running_engine: tuple[Engine, ServerProcess]) -> ServerProcess:
    """Its worker."""
    return running_engine[1]


def list_start_pids(engine: Engine, execution: str) -> list[int]:
    """The processes that noted a start of this execution."""
    lines = engine.activity_log.read_text().splitlines() if engine.activity_log.exists() else []
    words = [line.split() for line in lines]
    return [int(pid) for noted, _, what, pid in words if (noted, what) == (execution, "start")]


def wait_until_started(engine: Engine, execution: str) -> list[int]:
    """The processes of an execution that has begun."""
    until(lambda: engine.is_running(execution), what=f"{execution} to begin; logs in {engine.folder}")
    return list_start_pids(engine, execution)


def list_log_lines(engine: Engine, execution: str) -> list[LogRow]:
    """The latest lines of an execution's log."""
    return list(executions.list_log_lines(engine.database, execution, limit=200).items)


def wait_for_log_line(engine: Engine, execution: str, text: str) -> LogRow:
    """The line with this text, once it is there."""

    def found() -> LogRow | None:
        return next((line for line in list_log_lines(engine, execution) if text in line.message), None)

    line = until(found, what=f"{text!r} in the log")
    assert line is not None
    return line


def get_error(row: ExecutionRow) -> dict[str, Any]:
    assert row.error is not None
    return dict(row.error)
