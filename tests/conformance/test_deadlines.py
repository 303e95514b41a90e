"""Deadlines for the start: an execution that the relay finds in SQL after its deadline is Skipped, and no other."""

import datetime as dt

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, executions, timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.tables import core
from tests.conformance.factories import NOW, insert_executions, make_execution

SECOND = dt.timedelta(seconds=1)


def _get_rows(database: Database, ids: list[str]) -> list[ExecutionRow]:
    with database.read() as connection:
        return executions.get_many(connection, ids)


def _update_execution(database: Database, execution: str, **values: object) -> None:
    with database.write() as connection:
        table = core.executions
        connection.execute(sa.update(table).where(table.c.id == execution).values(**values))


def test_execution_in_sql_past_its_deadline_is_skipped(database: Database) -> None:
    with database.write() as connection:
        queued, scheduled, later = insert_executions(
            connection,
            make_execution(expires_at=NOW + SECOND),
            make_execution(expires_at=NOW + 2 * SECOND, state=ExecutionState.SCHEDULED, due_at=NOW + SECOND),
            make_execution(expires_at=NOW + 9 * SECOND),
        )
        insert_executions(connection, make_execution())
        assert due_executions.expire_executions(connection, NOW, 10) == []
        assert due_executions.get_next_due(connection) == NOW + SECOND
        assert due_executions.expire_executions(connection, NOW + 3 * SECOND, 1) == [queued]
        assert due_executions.expire_executions(connection, NOW + 3 * SECOND, 10) == [scheduled]
        assert due_executions.get_next_due(connection) == NOW + 9 * SECOND
        transitions = timeline.list_all_transitions(connection, queued)
    rows = {row.id: row for row in _get_rows(database, [queued, scheduled, later])}
    assert [rows[key].state for key in (queued, scheduled, later)] == [
        ExecutionState.SKIPPED,
        ExecutionState.SKIPPED,
        ExecutionState.QUEUED,
    ]
    assert rows[queued].reason == f"its deadline {(NOW + SECOND).isoformat()} passed before it started"
    assert rows[queued].finished_at == NOW + 3 * SECOND
    assert [(row.attempt, row.state, row.actor) for row in transitions] == [
        (0, "Queued", "tester"),
        (0, "Skipped", "relay"),
    ]


def test_published_started_or_ended_execution_is_not_expired(database: Database) -> None:
    with database.write() as connection:
        ids = insert_executions(connection, *(make_execution(expires_at=NOW) for _ in range(4)))
    published, started, retrying, over = ids
    _update_execution(database, published, dispatched_at=NOW)
    _update_execution(database, started, state="Running", attempt=1, dispatched_at=NOW)
    _update_execution(database, retrying, state="Retrying", attempt=1, dispatched_at=None, due_at=NOW + SECOND)
    _update_execution(database, over, state="Cancelled", finished_at=NOW)
    before = _get_rows(database, ids)
    with database.write() as connection:
        assert due_executions.expire_executions(connection, NOW + SECOND, 10) == []
    assert _get_rows(database, ids) == before


def test_first_attempt_message_contains_deadline(database: Database) -> None:
    with database.write() as connection:
        [execution] = insert_executions(connection, make_execution(expires_at=NOW + SECOND))
    with database.read() as connection:
        [ready] = dispatch.list_ready(connection, QueueBacklog("default", ["tasks.mail.send"]), 10)
    assert (ready.id, ready.expires_at) == (execution, NOW + SECOND)
