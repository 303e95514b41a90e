"""Recording of log lines: each line once, in order, and up to the size limit of a log."""

import itertools
from typing import Any

import pytest

from jobworker.domain.executions import events, log_limits
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.relay import log_lines as recorder
from jobworker.relay.log_lines import record_logs
from jobworker.store.database.database import Database
from jobworker.store.executions import log_lines, timeline
from jobworker.store.executions.log_lines import LogSize
from tests.conformance.factories import NOW, insert_executions, make_execution

_numbers = itertools.count(1)


def make_log_event(execution: str, message: str, attempt: int = 1, **data: Any) -> Event:
    """Return the event of a log line; each is later than the one before."""
    fields = {"level": "INFO", "logger": "job", "message": message, "at": NOW.isoformat(), **data}
    return _make_event(EventKind.LOG, execution, attempt, fields)


def make_cut_event(execution: str, lines: Any, size: int, attempt: int = 1) -> Event:
    """Return the event by which a worker reports dropped lines."""
    return _make_event(EventKind.LOG_CUT, execution, attempt, {"dropped": [lines, size]})


def _make_event(kind: EventKind, execution: str, attempt: int, data: dict[str, Any]) -> Event:
    event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(_numbers), 0))
    return Event(event_id, kind, execution, attempt, data)


@pytest.fixture
def execution(database: Database) -> str:
    """Id of an execution without log lines."""
    with database.write() as connection:
        [execution_id] = insert_executions(connection, make_execution())
    return execution_id


def record_events(database: Database, *reports: Event) -> None:
    """Record these events in one transaction of the relay."""
    with database.write() as connection:
        record_logs(connection, reports)


def list_log_lines(database: Database, execution: str) -> list[str]:
    """Return the log lines as the API shows them."""
    with database.read() as connection:
        return [line.message for line in timeline.list_logs_after(connection, execution, "", 1000)]


def get_log_size(database: Database, execution: str) -> LogSize:
    """Return the log size that is stored with the execution."""
    with database.read() as connection:
        return log_lines.get_sizes(connection, [execution])[execution]


def test_log_lines_are_stored_in_order_and_once(database: Database, execution: str) -> None:
    first, second = make_log_event(execution, "one"), make_log_event(execution, "two", attempt=2)
    record_events(database, first, second)
    record_events(database, make_log_event(execution, "three"))
    assert list_log_lines(database, execution) == ["one", "two", "three"]
    assert get_log_size(database, execution) == LogSize(
        sum(map(log_limits.compute_line_size, ["one", "two", "three"])), DroppedLines()
    )


def test_log_lines_of_unknown_executions_and_invalid_ones_are_dropped(database: Database, execution: str) -> None:
    record_events(
        database,
        make_log_event("00000000-0000-7000-8000-000000000000", "nobody's"),
        make_log_event(execution, "bad", at="yesterday"),
        make_cut_event(execution, "many", 1),
        make_log_event(execution, "good"),
    )
    assert list_log_lines(database, execution) == ["good"]


def test_recorder_cuts_a_line_that_is_too_long(database: Database, execution: str) -> None:
    record_events(database, make_log_event(execution, "x" * 100_000))
    [line] = list_log_lines(database, execution)
    assert line == log_limits.cut_line("x" * 100_000)


def test_full_log_ends_with_one_line_that_counts_dropped_lines(
    database: Database, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_LOG_BYTES", 3 * log_limits.compute_line_size("line 0"))
    record_events(database, *(make_log_event(execution, f"line {number}") for number in range(5)))
    lines = [f"line {number}" for number in range(3)]
    assert list_log_lines(database, execution) == [
        *lines,
        log_limits.format_cut_notice(DroppedLines(2, 2 * log_limits.compute_line_size("line 3"))),
    ]

    # The next attempt continues the same log, and a short line does not pass after a long one was dropped.
    record_events(
        database, make_log_event(execution, "x", attempt=2), make_cut_event(execution, 1000, 50_000, attempt=2)
    )
    dropped = DroppedLines(
        1003, 50_000 + 2 * log_limits.compute_line_size("line 3") + log_limits.compute_line_size("x")
    )
    assert list_log_lines(database, execution) == [*lines, log_limits.format_cut_notice(dropped)]
    assert get_log_size(database, execution) == LogSize(3 * log_limits.compute_line_size("line 0"), dropped)


def test_truncation_mark_moves_on_when_its_count_grows(
    database: Database, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_LOG_BYTES", 0)
    marks = []
    for _ in range(3):
        record_events(database, *(make_log_event(execution, "x") for _ in range(7)))
        with database.read() as connection:
            [mark] = timeline.list_logs_after(connection, execution, "", 10)
        marks.append(mark.seq)
    assert marks == sorted(set(marks))
    assert all(map(log_lines.is_truncation_mark, marks))
    assert not log_lines.is_truncation_mark(log_lines.format_seq("1700000000000-3"))


def test_lines_dropped_by_worker_are_counted_in_a_log_with_room(database: Database, execution: str) -> None:
    record_events(database, make_log_event(execution, "one"), make_cut_event(execution, 7, 700))
    record_events(database, make_log_event(execution, "two"))
    assert list_log_lines(database, execution) == [
        "one",
        log_limits.format_cut_notice(DroppedLines(8, 700 + log_limits.compute_line_size("two"))),
    ]
