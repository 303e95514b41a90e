"""Database with one task, and the command line on it."""

import datetime as dt
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from jobworker.cli import main
from jobworker.clock import SystemClock
from jobworker.domain.executions import failure_fingerprint
from jobworker.domain.executions.dead_letter import DEAD_LETTER_STATES
from jobworker.domain.executions.execution import ExecutionState, StateTransition, merge_transition
from jobworker.domain.jobs.parameters import Parameter
from jobworker.services.jobs import task_catalog
from jobworker.store.database.database import Database
from jobworker.store.executions import history

CommandRunner = Callable[..., Result]
StateReporter = Callable[..., None]

_TASK = {
    "name": "clean",
    "description": "Remove what is old.",
    "parameters": [
        Parameter("days", "integer", required=True).to_json(),
        Parameter("ratio", "number", required=False, default=0.5).to_json(),
        Parameter("dry_run", "boolean", required=False, default=False).to_json(),
        Parameter("label", "string", required=False, default="").to_json(),
        Parameter("only", "array", required=False, default=None, nullable=True).to_json(),
    ],
    "options": {"queue": "default", "priority": 5, "on_worker_lost": "retry"},
}


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restoration of the logging setup: a command configures its process, which here is the process of all tests."""
    configure, root = structlog.configure, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # Loggers that are cached on first use could not be restored.
    monkeypatch.setattr(
        structlog, "configure", lambda **options: configure(**{**options, "cache_logger_on_first_use": False})
    )
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run(tmp_path: Path, sqlite_url: str, sqlite_database: Database) -> CommandRunner:
    """Runner of `jobworker …` with one known task, `clean`, and without Redis."""
    task_catalog.register_tasks(sqlite_database, SystemClock(), [_TASK], "v1")
    environment = {
        "JOBWORKER_HOME": str(tmp_path / "var"),
        "JOBWORKER_DATABASE_URL": sqlite_url,
        # No server listens on port 1: the tested commands must not need Redis.
        "JOBWORKER_REDIS_URL": "redis://127.0.0.1:1/0",
    }

    def invoke(*arguments: str, **more: str) -> Result:
        return CliRunner().invoke(main, arguments, env={**environment, **more}, catch_exceptions=False)

    return invoke


@pytest.fixture
def report(sqlite_database: Database) -> StateReporter:
    """Function that records a change of state as if a worker had reported it."""

    def record(execution: str, state: ExecutionState, **details: object) -> None:
        at = dt.datetime.now(dt.UTC)
        move = StateTransition(execution, 1, state, (2, 0), at, "worker:w1", **details)  # type: ignore[arg-type]
        with sqlite_database.write() as connection:
            merged = merge_transition(history.get_many(connection, [execution])[execution].merged, move)
            dead = (
                {execution: failure_fingerprint.compute_fingerprint(merged.error, "clean")}
                if merged.state in DEAD_LETTER_STATES
                else {}
            )
            history.update_merged_executions(connection, {execution: merged}, dead)
            history.insert_transitions(connection, [move])

    return record
