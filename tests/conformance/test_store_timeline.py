"""Attempts, transitions and log lines of one execution, and its snapshot."""

import datetime as dt
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidCursor
from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.store.executions import timeline
from jobworker.store.pagination import Page
from jobworker.store.tables import core
from tests.conformance.factories import NOW, insert_executions, make_execution

ERROR = {"type": "E", "message": "m", "traceback": None}


@pytest.fixture
def execution(database: Database) -> str:
    """Id of an execution with two attempts and five log lines, whose reports arrived out of order."""
    with database.write() as connection:
        [execution_id] = insert_executions(connection, make_execution())
        later = [(2, "Succeeded"), (1, "Running"), (1, "Retrying"), (2, "Running"), (1, "Queued")]
        connection.execute(
            sa.insert(core.transitions),
            [
                {"execution_id": execution_id, "attempt": attempt, "state": state, "at": NOW, "actor": "w"}
                for attempt, state in later
            ],
        )
        connection.execute(
            sa.insert(core.attempts),
            [
                {"execution_id": execution_id, "attempt": 2, "state": "Succeeded", "runtime": 0.5, "error": None},
                {"execution_id": execution_id, "attempt": 1, "state": "Failed", "runtime": None, "error": ERROR},
            ],
        )
        lines = [_make_line(execution_id, number) for number in range(5)]
        connection.execute(sa.insert(core.execution_logs), lines)
    return execution_id


def _make_line(execution: str, number: int) -> dict[str, Any]:
    return {
        "execution_id": execution,
        "seq": f"{number:013}-00000",
        "attempt": 1,
        "at": NOW + dt.timedelta(seconds=number),
        "level": "INFO",
        "logger": "job",
        "message": f"line {number}",
    }


def _list_all_pages(page: Callable[[str | None], Page[Any]]) -> list[Any]:
    items: list[Any] = []
    cursor = None
    while True:
        part = page(cursor)
        items += part.items
        cursor = part.next
        if cursor is None:
            return items


@pytest.mark.parametrize("limit", [1, 2, 6, 50])
def test_transitions_are_listed_chronologically(database: Database, execution: str, limit: int) -> None:
    with database.read() as connection:
        transitions = _list_all_pages(lambda cursor: timeline.list_transitions(connection, execution, limit, cursor))
    assert [(row.attempt, row.state.value) for row in transitions] == [
        (0, "Queued"),
        (1, "Running"),
        (1, "Retrying"),
        (1, "Queued"),
        (2, "Running"),
        (2, "Succeeded"),
    ]


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_attempts_are_listed_first_to_last(database: Database, execution: str, limit: int) -> None:
    with database.read() as connection:
        attempts = _list_all_pages(lambda cursor: timeline.list_attempts(connection, execution, limit, cursor))
    assert [(row.attempt, row.runtime, row.error) for row in attempts] == [(1, None, ERROR), (2, 0.5, None)]


@pytest.mark.parametrize("limit", [2, 50])
def test_log_lines_are_listed_first_to_last(database: Database, execution: str, limit: int) -> None:
    with database.read() as connection:
        lines = _list_all_pages(lambda cursor: timeline.list_logs(connection, execution, limit, cursor))
    assert [row.message for row in lines] == [f"line {number}" for number in range(5)]
    assert lines[1].at == NOW + dt.timedelta(seconds=1)


def test_cursor_is_valid_only_for_its_execution(database: Database, execution: str) -> None:
    with database.write() as connection:
        [second_execution] = insert_executions(connection, make_execution())
        cursor = timeline.list_logs(connection, execution, 1).next
        with pytest.raises(InvalidCursor):
            timeline.list_logs(connection, second_execution, 1, cursor)
        with pytest.raises(InvalidCursor):
            timeline.list_attempts(connection, execution, 1, cursor)


def test_snapshot_changes_with_every_change_of_the_execution(database: Database, execution: str) -> None:
    table = core.executions
    steps = [
        sa.update(table).where(table.c.id == execution).values(progress={"done": 1}),
        sa.update(table).where(table.c.id == execution).values(state="Running", attempt=3),
        sa.insert(core.execution_logs).values(_make_line(execution, 9)),
        sa.insert(core.transitions).values(execution_id=execution, attempt=3, state="Running", at=NOW, actor="w"),
    ]
    with database.write() as connection:
        seen = [timeline.get_snapshot(connection, execution)]
        for step in steps:
            connection.execute(step)
            seen.append(timeline.get_snapshot(connection, execution))
        assert timeline.get_snapshot(connection, execution) == seen[-1]
        assert timeline.get_snapshot(connection, "nobody") is None
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert seen[-1] is not None
    assert seen[-1].state is ExecutionState.RUNNING
