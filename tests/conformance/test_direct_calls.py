"""Direct calls become rows once, for any order and number of their events."""

import datetime as dt
import itertools
from typing import Any

import pytest
import structlog.testing

from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.relay.event_recorder import record_events
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, executions, timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.tasks import TaskRow
from tests.conformance.factories import NOW

EXECUTION = "01995b7e-0000-7000-8000-000000000001"
CALL_DATA: dict[str, Any] = {
    "by": "python:host",
    "at": (NOW - dt.timedelta(seconds=5)).isoformat(),
    "task": "tasks.mail.send",
    "queue": "mail",
    "priority": 7,
    "correlation_id": "order-17",
    "args": ["ann"],
    "kwargs": {"urgent": True},
    "embedded": {},
}
_numbers = itertools.count(1)


def _make_event(kind: EventKind, execution: str = EXECUTION, **data: Any) -> Event:
    event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(_numbers), 0))
    return Event(event_id, kind, execution, 1, data)


def _record_events(database: Database, *call_events: Event) -> None:
    with database.write() as connection:
        record_events(connection, call_events)


def _get_row(database: Database) -> ExecutionRow:
    with database.read() as connection:
        row = executions.get(connection, EXECUTION)
    assert row is not None
    return row


@pytest.fixture
def call_database(database: Database) -> Database:
    """Database that knows the task."""
    with database.write() as connection:
        parameters = (Parameter("to", "string"), Parameter("urgent", "boolean", required=False))
        tasks.upsert(connection, TaskRow("tasks.mail.send", "", parameters, {}, "v1", NOW))
        jobs.upsert(connection, JobDefinition("tasks.mail.send", "tasks.mail.send"), JobOwner.CODE, "code:v1", NOW)
    return database


def test_first_call_event_creates_execution(call_database: Database) -> None:
    _record_events(call_database, _make_event(EventKind.CALLED, **CALL_DATA))
    row = _get_row(call_database)
    assert (row.state, row.job, row.job_revision, row.queue, row.priority) == (
        *(ExecutionState.QUEUED, "tasks.mail.send", 1),
        *("mail", 7),
    )
    assert (row.parameters, row.correlation_id) == ({"to": "ann", "urgent": True}, "order-17")
    assert row.created_by == "python:host"
    assert row.created_at == row.dispatched_at == row.due_at == NOW - dt.timedelta(seconds=5)
    with call_database.read() as connection:
        assert dispatch.list_ready(connection, QueueBacklog("mail", ["tasks.mail.send"]), 10) == []
        [published] = dispatch.list_published_before(connection, NOW, 10)
    assert (published.id, published.urgency) == (EXECUTION, 7)


def test_repeated_call_event_changes_nothing(call_database: Database) -> None:
    called = _make_event(EventKind.CALLED, **CALL_DATA)
    _record_events(call_database, called, _make_event(EventKind.RUNNING, worker="w", token="t"), called)
    _record_events(
        call_database,
        called,
        _make_event(EventKind.SUCCEEDED, worker="w", token="t", result=1),
        _make_event(EventKind.CALLED, **CALL_DATA),
    )
    assert (_get_row(call_database).state, _get_row(call_database).result) == (ExecutionState.SUCCEEDED, 1)
    with call_database.read() as connection:
        assert [row.state for row in timeline.list_all_transitions(connection, EXECUTION)] == [
            "Queued",
            "Running",
            "Succeeded",
        ]


def test_running_event_before_call_event_is_applied(call_database: Database) -> None:
    # Within one batch of events the call is applied first, independent of its position.
    _record_events(
        call_database, _make_event(EventKind.RUNNING, worker="w", token="t"), _make_event(EventKind.CALLED, **CALL_DATA)
    )
    assert _get_row(call_database).state is ExecutionState.RUNNING


def test_retried_call_keeps_its_celery_chain(call_database: Database) -> None:
    chain = [{"task": "next", "args": [], "kwargs": {}}]
    _record_events(call_database, _make_event(EventKind.CALLED, **{**CALL_DATA, "embedded": {"chain": chain}}))
    _record_events(
        call_database,
        _make_event(EventKind.RUNNING, worker="w", token="t"),
        _make_event(EventKind.RETRYING, worker="w", token="t", delay=0),
    )
    with call_database.write() as connection:
        due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
        [ready] = dispatch.list_ready(connection, QueueBacklog("mail", ["tasks.mail.send"]), 10)
    assert (ready.attempt, ready.parameters, ready.call) == (1, {"to": "ann", "urgent": True}, {"chain": chain})


def test_call_of_unannounced_task_creates_execution(database: Database) -> None:
    _record_events(database, _make_event(EventKind.CALLED, **CALL_DATA))
    row = _get_row(database)
    assert (row.job, row.job_revision, row.parameters) == ("tasks.mail.send", 0, {"*": ["ann"], "urgent": True})


def test_invalid_call_event_is_logged_and_skipped(call_database: Database) -> None:
    execution_id = "01995b7e-0000-7000-8000-000000000002"
    with structlog.testing.capture_logs() as logged:
        _record_events(
            call_database,
            _make_event(EventKind.CALLED, execution_id, **{**CALL_DATA, "priority": 99}),
            _make_event(EventKind.CALLED, **CALL_DATA),
        )
    assert [entry["event"] for entry in logged] == ["event_unreadable"]
    assert _get_row(call_database).state is ExecutionState.QUEUED


def test_call_of_removed_job_fails_when_it_is_declined(call_database: Database) -> None:
    declined = _make_event(EventKind.UNKNOWN_TASK, worker="w")
    with call_database.write() as connection:
        tasks.mark_removed(connection, ["tasks.mail.send"], NOW)
    _record_events(call_database, _make_event(EventKind.CALLED, **CALL_DATA), declined)
    row = _get_row(call_database)
    assert row.state is ExecutionState.FAILED
    assert row.error is not None
    assert row.error["type"] == "JobRemoved"
    assert "no worker declares its task tasks.mail.send" in row.error["message"]


def test_declined_call_waits_while_its_code_may_be_elsewhere(call_database: Database) -> None:
    _record_events(
        call_database, _make_event(EventKind.CALLED, **CALL_DATA), _make_event(EventKind.UNKNOWN_TASK, worker="w")
    )
    assert _get_row(call_database).state is ExecutionState.QUEUED
