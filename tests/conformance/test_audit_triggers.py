"""Tests that the audit is append-only for plain SQL too, on each database."""

import pytest
import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.tables import core
from tests.conftest import NOW

_ENTRY = {"at": NOW, "actor": "someone", "action": "job.create", "subject": "export", "after": {"queue": "default"}}


@pytest.fixture
def audited(database: Database) -> Database:
    """Database with one audit entry."""
    return write_entry(database)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "UPDATE audit SET id = 7",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 1",
    ],
)
def test_audit_entry_refuses_update_and_delete(audited: Database, statement: str) -> None:
    is_refused(audited, statement)


def test_audit_table_refuses_truncate_on_postgresql(postgres_url: str) -> None:
    database = write_entry(Database(postgres_url))
    is_refused(database, "TRUNCATE audit")
    database.dispose()


def test_audit_entry_refuses_insert_or_replace_on_sqlite(sqlite_database: Database) -> None:
    columns = "(id, at, actor, action, subject)"
    write_entry(sqlite_database)
    is_refused(sqlite_database, f"INSERT OR REPLACE INTO audit {columns} VALUES (1, '2026-01-01', 'nobody', 'x', 'y')")


def test_transition_refuses_update(database: Database) -> None:
    execution = NewExecution(
        id="01890000-0000-7000-8000-000000000000", job="export", job_revision=1, task="export", max_attempts=1,
        queue="default", priority=5, parameters={}, correlation_id="c", batch_id=None, schedule_id=None,
        scheduled_for=None, due_at=NOW, state=ExecutionState.QUEUED,
    )  # fmt: skip
    with database.write() as connection:
        executions.insert(connection, [execution], "someone", NOW)
    with pytest.raises(sa.exc.DatabaseError, match="not changed"), database.write() as connection:
        connection.exec_driver_sql("UPDATE transitions SET actor = 'nobody'")


def test_audit_accepts_more_entries(audited: Database) -> None:
    with audited.write() as connection:
        connection.execute(sa.insert(core.audit), [_ENTRY, _ENTRY])
    with audited.read() as connection:
        assert connection.scalars(sa.select(core.audit.c.id).order_by(core.audit.c.id)).all() == [1, 2, 3]


def write_entry(database: Database) -> Database:
    with database.write() as connection:
        connection.execute(sa.insert(core.audit).values(_ENTRY))
    return database


def is_refused(database: Database, statement: str) -> None:
    with pytest.raises(sa.exc.DatabaseError, match="audit is append-only"), database.write() as connection:
        connection.execute(sa.text(statement))
    with database.read() as connection:
        assert [row.actor for row in connection.execute(sa.select(core.audit))] == ["someone"]
