"""What the relay asks in every turn is answered from an index alone, however long history is (SQLite)."""

import sqlalchemy as sa

from jobworker.store import dispatch, stopping
from jobworker.store.database import Database
from tests.conftest import NOW


def _plans(database: Database, ask: object) -> list[str]:
    statements: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    sa.event.listen(database._reader, "before_cursor_execute", note)
    with database.read() as connection:
        ask(connection)  # type: ignore[operator]
    sa.event.remove(database._reader, "before_cursor_execute", note)
    with database.read() as connection:
        return [
            row[3]
            for statement, parameters in statements
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        ]


def test_ready_is_read_in_the_order_of_its_index(sqlite_database: Database) -> None:
    plan = _plans(sqlite_database, lambda connection: dispatch.ready(connection, "default", ["noop", "other"], 10))
    assert plan == ["SEARCH executions USING INDEX ix_executions_ready (queue=?)"]


def test_what_is_due_next_is_the_first_entry_of_its_index(sqlite_database: Database) -> None:
    assert all("ix_executions_due" in step for step in _plans(sqlite_database, dispatch.next_due))


def test_published_running_and_to_be_cancelled_have_their_indexes(sqlite_database: Database) -> None:
    published = _plans(sqlite_database, lambda connection: dispatch.published_before(connection, NOW, 10))
    assert published == ["SEARCH executions USING INDEX ix_executions_published (dispatched_at>? AND dispatched_at<?)"]
    running = _plans(sqlite_database, lambda connection: dispatch.running(connection, "worker"))
    assert running == ["SEARCH executions USING INDEX ix_executions_running (worker=?)"]
    cancelled = _plans(sqlite_database, lambda connection: dispatch.cancel_asked(connection, 10))
    assert cancelled == ["SCAN executions USING INDEX ix_executions_cancel"]
    stopped = _plans(sqlite_database, lambda connection: stopping.asked(connection, 10))
    assert stopped == ["SCAN executions USING INDEX ix_executions_stop"]
