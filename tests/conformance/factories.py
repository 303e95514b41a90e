"""Factories of rows that the store's tests insert into a database."""

import datetime as dt
from collections import defaultdict

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.ids import IdFactory
from jobworker.domain.jobs.parameters import Parameter
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.tasks import TaskRow

NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

#: One id factory for each point in time, because a factory never goes back in time.
_ids: defaultdict[dt.datetime, IdFactory] = defaultdict(IdFactory)


def make_task(name: str = "tasks.mail.send", *parameters: Parameter) -> TaskRow:
    """Return the row of a task that was announced at `NOW`."""
    return TaskRow(name, "Sends.", parameters, {"queue": "default"}, "v1", NOW)


def make_execution(
    job: str = "send", state: ExecutionState = ExecutionState.QUEUED, at: dt.datetime = NOW, **values: object
) -> NewExecution:
    """Return a new execution that was accepted at `at`."""
    fields: dict[str, object] = {
        "id": _ids[at].create_id(int(at.timestamp() * 1000)),
        "job": job,
        "job_revision": 1,
        "task": "tasks.mail.send",
        "max_attempts": None,
        "queue": "default",
        "priority": 5,
        "parameters": {"to": "a"},
        "correlation_id": "c",
        "batch_id": None,
        "schedule_id": None,
        "scheduled_for": None,
        "due_at": at,
        "state": state,
        **values,
    }
    return NewExecution(**fields)  # type: ignore[arg-type]


def insert_executions(connection: sa.Connection, *rows: NewExecution, now: dt.datetime = NOW) -> list[str]:
    """Insert executions and return their ids."""
    executions.insert(connection, rows, "tester", now)
    return [row.id for row in rows]
