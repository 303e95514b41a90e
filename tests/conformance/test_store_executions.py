"""Executions: inserted, listed by keyset, and cancelled."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidCursor
from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, executions, timeline
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, insert_executions, make_execution

HOUR = dt.timedelta(hours=1)


def _update_execution(database: Database, execution_id: str, **values: Any) -> None:
    table = core.executions
    with database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id == execution_id).values(**values))


def test_execution_is_read_back(database: Database) -> None:
    row = make_execution(
        parameters={"n": 1, "deep": [{"ü": None}]}, batch_id="b", scheduled_for=NOW - HOUR, queue="mail"
    )
    with database.write() as connection:
        insert_executions(connection, row)
        assert executions.get(connection, row.id) == executions.build_inserted_row(row, "tester", NOW)
        assert executions.get(connection, "nobody") is None
        assert executions.get_state(connection, row.id) is ExecutionState.QUEUED
        assert executions.get_state(connection, "nobody") is None
        [first] = timeline.list_all_transitions(connection, row.id)
    assert (first.attempt, first.state, first.at, first.actor) == (0, ExecutionState.QUEUED, NOW, "tester")


def test_executions_are_stored_in_submission_order(database: Database) -> None:
    rows = [make_execution(parameters={"n": number}) for number in range(2500)]
    with database.write() as connection:
        ids = insert_executions(connection, *rows)
    with database.read() as connection:
        stored = executions.get_many(connection, ids)
        assert [row.parameters["n"] for row in stored] == list(range(2500))
        assert connection.scalar(sa.select(sa.func.count()).select_from(core.transitions)) == 2500


def test_failed_insert_stores_no_execution(database: Database) -> None:
    twice = make_execution()
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        insert_executions(connection, make_execution(), twice, twice)
    with database.read() as connection:
        assert not executions.list_page(connection, ExecutionFilters()).items


def _list_all_pages(database: Database, filters: ExecutionFilters, limit: int) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        with database.read() as connection:
            page = executions.list_page(connection, filters, limit, cursor)
        ids += [row.id for row in page.items]
        cursor = page.next
        if cursor is None:
            return ids


def test_pages_list_each_execution_once_newest_first(database: Database) -> None:
    with database.write() as connection:
        ids = insert_executions(connection, *(make_execution() for _ in range(23)))
    assert _list_all_pages(database, ExecutionFilters(), 5) == ids[::-1]
    assert _list_all_pages(database, ExecutionFilters(), 23) == ids[::-1]


def test_new_executions_do_not_shift_later_pages(database: Database) -> None:
    with database.write() as connection:
        ids = insert_executions(connection, *(make_execution() for _ in range(6)))
        first = executions.list_page(connection, ExecutionFilters(), 3)
        insert_executions(connection, make_execution(), make_execution())
        second = executions.list_page(connection, ExecutionFilters(), 3, first.next)
    assert [row.id for row in (*first.items, *second.items)] == ids[::-1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (ExecutionFilters(job="send"), {"a", "b", "c"}),
        (ExecutionFilters(job="other"), {"d"}),
        (ExecutionFilters(state=ExecutionState.SCHEDULED), {"b"}),
        (ExecutionFilters(queue="mail"), {"c", "d"}),
        (ExecutionFilters(queue="mail", job="send"), {"c"}),
        (ExecutionFilters(correlation_id="x"), {"a", "d"}),
        (ExecutionFilters(batch_id="batch"), {"b", "c"}),
        (ExecutionFilters(created_after=NOW), {"c", "d"}),
        (ExecutionFilters(created_before=NOW), set()),
        (ExecutionFilters(created_before=NOW + 5 * HOUR), {"a", "b", "c"}),
        (ExecutionFilters(created_after=NOW, created_before=NOW + 5 * HOUR), {"c"}),
        (ExecutionFilters(created_after=dt.datetime.min.replace(tzinfo=dt.UTC)), {"a", "b", "c", "d"}),
        (ExecutionFilters(created_before=dt.datetime.max.replace(tzinfo=dt.UTC)), {"a", "b", "c", "d"}),
    ],
)
def test_filters_select_executions(database: Database, filters: ExecutionFilters, expected: set[str]) -> None:
    rows = {
        "a": (make_execution(correlation_id="x"), NOW),
        "b": (make_execution(state=ExecutionState.SCHEDULED, batch_id="batch"), NOW),
        "c": (make_execution(queue="mail", batch_id="batch", at=NOW + HOUR), NOW + HOUR),
        "d": (make_execution("other", queue="mail", correlation_id="x", at=NOW + 6 * HOUR), NOW + 6 * HOUR),
    }
    with database.write() as connection:
        for row, at in rows.values():
            insert_executions(connection, row, now=at)
    names = {row.id: name for name, (row, _) in rows.items()}
    assert {names[execution_id] for execution_id in _list_all_pages(database, filters, 2)} == expected


def test_cursor_is_valid_only_for_its_filters(database: Database) -> None:
    with database.write() as connection:
        insert_executions(connection, *(make_execution() for _ in range(3)))
        cursor = executions.list_page(connection, ExecutionFilters(job="send"), 1).next
        assert cursor is not None
        for filters, wrong in (
            (ExecutionFilters(), cursor),
            (ExecutionFilters(job="send"), cursor[:-1]),
            (ExecutionFilters(job="send"), "é"),
        ):
            with pytest.raises(InvalidCursor):
                executions.list_page(connection, filters, 1, wrong)


def _get_row(database: Database, execution_id: str) -> ExecutionRow:
    with database.read() as connection:
        row = executions.get(connection, execution_id)
    assert row is not None
    return row


@pytest.mark.parametrize(("state", "attempt"), [(ExecutionState.SCHEDULED, 0), (ExecutionState.RETRYING, 2)])
def test_scheduled_or_retrying_execution_is_cancelled_at_once(
    database: Database, state: ExecutionState, attempt: int
) -> None:
    with database.write() as connection:
        [waiting] = insert_executions(connection, make_execution(state=ExecutionState.SCHEDULED))
    _update_execution(database, waiting, state=state, attempt=attempt)
    with database.write() as connection:
        assert executions.cancel_waiting(connection, waiting, "ann", "not wanted", NOW + HOUR)
        assert not executions.cancel_waiting(connection, waiting, "bob", "again", NOW + HOUR)
        last = timeline.list_all_transitions(connection, waiting)[-1]
    row = _get_row(database, waiting)
    assert (row.state, row.reason, row.finished_at) == (ExecutionState.CANCELLED, "not wanted", NOW + HOUR)
    assert (last.attempt, last.state, last.actor, last.reason) == (
        attempt,
        ExecutionState.CANCELLED,
        "ann",
        "not wanted",
    )


def test_first_cancel_request_of_started_execution_is_kept(database: Database) -> None:
    with database.write() as connection:
        [queued, running, over] = insert_executions(connection, make_execution(), make_execution(), make_execution())
    _update_execution(database, running, state="Running", attempt=2, worker="w")
    _update_execution(database, over, state="Succeeded")
    with database.write() as connection:
        assert executions.request_cancel(connection, queued, "ann", NOW + HOUR)
        assert executions.request_cancel(connection, queued, "bob", NOW + 2 * HOUR)
        assert executions.request_cancel(connection, running, "ann", NOW)
        assert not executions.request_cancel(connection, over, "ann", NOW)
        assert not executions.cancel_waiting(connection, queued, "ann", "no", NOW)
    row = _get_row(database, queued)
    assert (row.state, row.cancel_requested_by, row.cancel_requested_at) == (ExecutionState.QUEUED, "ann", NOW + HOUR)
    with database.read() as connection:
        assert cancellation.list_started_cancel_requests(connection, 10) == [
            cancellation.StartedCancelRequest(running, ExecutionState.RUNNING, 2, "w", "ann")
        ]
    _update_execution(database, running, state="Succeeded")
    with database.read() as connection:
        assert cancellation.list_started_cancel_requests(connection, 10) == []


def test_executions_are_counted_by_state_and_backlog_by_queue(database: Database) -> None:
    with database.write() as connection:
        ids = insert_executions(
            connection,
            make_execution(),
            make_execution(queue="mail", at=NOW - HOUR),
            make_execution(queue="mail"),
            make_execution(),
        )
        insert_executions(connection, make_execution(state=ExecutionState.SCHEDULED))
    _update_execution(database, ids[3], dispatched_at=NOW)
    with database.read() as connection:
        assert executions.count_unfinished(connection) == {
            ExecutionState.WAITING: 0,
            ExecutionState.SCHEDULED: 1,
            ExecutionState.QUEUED: 4,
            ExecutionState.RUNNING: 0,
            ExecutionState.RETRYING: 0,
        }
        assert executions.get_backlogs(connection) == {"default": (1, NOW), "mail": (2, NOW - HOUR)}
