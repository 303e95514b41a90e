"""Executions: accepted, listed by keyset, asked to stop."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidCursor
from jobworker.domain.execution import State
from jobworker.store import executions, schema, stopping, story
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import Filters
from tests.conformance.worlds import NOW, accepted, new

HOUR = dt.timedelta(hours=1)


def _set(database: Database, execution_id: str, **values: Any) -> None:
    table = schema.executions
    with database.write() as connection:
        connection.execute(sa.update(table).where(table.c.id == execution_id).values(**values))


def test_what_was_accepted_is_read_back(database: Database) -> None:
    row = new(parameters={"n": 1, "deep": [{"ü": None}]}, batch_id="b", scheduled_for=NOW - HOUR, queue="mail")
    with database.write() as connection:
        accepted(connection, row)
        assert executions.get(connection, row.id) == executions.accepted(row, "tester", NOW)
        assert executions.get(connection, "nobody") is None
        assert executions.state(connection, row.id) is State.QUEUED
        assert executions.state(connection, "nobody") is None
        [first] = story.transitions(connection, row.id)
    assert (first.attempt, first.state, first.at, first.actor) == (0, State.QUEUED, NOW, "tester")


def test_many_are_accepted_in_their_order(database: Database) -> None:
    rows = [new(parameters={"n": number}) for number in range(2500)]
    with database.write() as connection:
        ids = accepted(connection, *rows)
    with database.read() as connection:
        found = executions.some(connection, ids)
        assert [row.parameters["n"] for row in found] == list(range(2500))
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.transitions)) == 2500


def test_a_batch_that_fails_leaves_nothing(database: Database) -> None:
    twice = new()
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        accepted(connection, new(), twice, twice)
    with database.read() as connection:
        assert not executions.page(connection, Filters()).items


def _walk(database: Database, filters: Filters, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        with database.read() as connection:
            page = executions.page(connection, filters, limit, cursor)
        found += [row.id for row in page.items]
        cursor = page.next
        if cursor is None:
            return found


def test_pages_show_each_execution_once_newest_first(database: Database) -> None:
    with database.write() as connection:
        ids = accepted(connection, *(new() for _ in range(23)))
    assert _walk(database, Filters(), 5) == ids[::-1]
    assert _walk(database, Filters(), 23) == ids[::-1]


def test_what_arrives_between_two_pages_does_not_shift_them(database: Database) -> None:
    with database.write() as connection:
        ids = accepted(connection, *(new() for _ in range(6)))
        first = executions.page(connection, Filters(), 3)
        accepted(connection, new(), new())
        second = executions.page(connection, Filters(), 3, first.next)
    assert [row.id for row in (*first.items, *second.items)] == ids[::-1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(job="send"), {"a", "b", "c"}),
        (Filters(job="other"), {"d"}),
        (Filters(state=State.SCHEDULED), {"b"}),
        (Filters(queue="mail"), {"c", "d"}),
        (Filters(queue="mail", job="send"), {"c"}),
        (Filters(correlation_id="x"), {"a", "d"}),
        (Filters(batch_id="batch"), {"b", "c"}),
        (Filters(created_after=NOW), {"c", "d"}),
        (Filters(created_before=NOW), set()),
        (Filters(created_before=NOW + 5 * HOUR), {"a", "b", "c"}),
        (Filters(created_after=NOW, created_before=NOW + 5 * HOUR), {"c"}),
        (Filters(created_after=dt.datetime.min.replace(tzinfo=dt.UTC)), {"a", "b", "c", "d"}),
        (Filters(created_before=dt.datetime.max.replace(tzinfo=dt.UTC)), {"a", "b", "c", "d"}),
    ],
)
def test_filters(database: Database, filters: Filters, expected: set[str]) -> None:
    rows = {
        "a": (new(correlation_id="x"), NOW),
        "b": (new(state=State.SCHEDULED, batch_id="batch"), NOW),
        "c": (new(queue="mail", batch_id="batch", at=NOW + HOUR), NOW + HOUR),
        "d": (new("other", queue="mail", correlation_id="x", at=NOW + 6 * HOUR), NOW + 6 * HOUR),
    }
    with database.write() as connection:
        for row, at in rows.values():
            accepted(connection, row, now=at)
    names = {row.id: name for name, (row, _) in rows.items()}
    assert {names[found] for found in _walk(database, filters, 2)} == expected


def test_a_cursor_belongs_to_its_filters(database: Database) -> None:
    with database.write() as connection:
        accepted(connection, *(new() for _ in range(3)))
        cursor = executions.page(connection, Filters(job="send"), 1).next
        assert cursor is not None
        for filters, wrong in ((Filters(), cursor), (Filters(job="send"), cursor[:-1]), (Filters(job="send"), "é")):
            with pytest.raises(InvalidCursor):
                executions.page(connection, filters, 1, wrong)


def _row(database: Database, execution_id: str) -> ExecutionRow:
    with database.read() as connection:
        found = executions.get(connection, execution_id)
    assert found is not None
    return found


@pytest.mark.parametrize(("state", "attempt"), [(State.SCHEDULED, 0), (State.RETRYING, 2)])
def test_what_waits_for_its_time_is_cancelled_at_once(database: Database, state: State, attempt: int) -> None:
    with database.write() as connection:
        [waiting] = accepted(connection, new(state=State.SCHEDULED))
    _set(database, waiting, state=state, attempt=attempt)
    with database.write() as connection:
        assert executions.cancel_waiting(connection, waiting, "ann", "not wanted", NOW + HOUR)
        assert not executions.cancel_waiting(connection, waiting, "bob", "again", NOW + HOUR)
        last = story.transitions(connection, waiting)[-1]
    row = _row(database, waiting)
    assert (row.state, row.reason, row.finished_at) == (State.CANCELLED, "not wanted", NOW + HOUR)
    assert (last.attempt, last.state, last.actor, last.reason) == (attempt, State.CANCELLED, "ann", "not wanted")


def test_what_is_queued_or_runs_can_be_asked_to_stop_and_the_first_who_asks_is_remembered(database: Database) -> None:
    with database.write() as connection:
        [queued, running, over] = accepted(connection, new(), new(), new())
    _set(database, running, state="Running", attempt=2, worker="w")
    _set(database, over, state="Succeeded")
    with database.write() as connection:
        assert executions.request_cancel(connection, queued, "ann", NOW + HOUR)
        assert executions.request_cancel(connection, queued, "bob", NOW + 2 * HOUR)
        assert executions.request_cancel(connection, running, "ann", NOW)
        assert not executions.request_cancel(connection, over, "ann", NOW)
        assert not executions.cancel_waiting(connection, queued, "ann", "no", NOW)
    row = _row(database, queued)
    assert (row.state, row.cancel_requested_by, row.cancel_requested_at) == (State.QUEUED, "ann", NOW + HOUR)
    with database.read() as connection:
        assert stopping.asked(connection, 10) == [stopping.StopAsked(running, State.RUNNING, 2, "w", "ann")]
    _set(database, running, state="Succeeded")
    with database.read() as connection:
        assert stopping.asked(connection, 10) == []


def test_counts(database: Database) -> None:
    with database.write() as connection:
        ids = accepted(connection, new(), new(queue="mail", at=NOW - HOUR), new(queue="mail"), new())
        accepted(connection, new(state=State.SCHEDULED))
    _set(database, ids[3], dispatched_at=NOW)
    with database.read() as connection:
        assert executions.count_unfinished(connection) == {
            State.WAITING: 0,
            State.SCHEDULED: 1,
            State.QUEUED: 4,
            State.RUNNING: 0,
            State.RETRYING: 0,
        }
        assert executions.ready_backlog(connection) == {"default": (1, NOW), "mail": (2, NOW - HOUR)}
