"""Recording of progress and metadata: the latest progress, and metadata that attempts share."""

import itertools
from typing import Any

import pytest

from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay.event_recorder import record_events
from jobworker.relay.progress import record_progress
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from tests.conformance.factories import NOW, insert_executions, make_execution

_numbers = itertools.count(1)


class ProgressDriver:
    """An execution, and the recorder of its events."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.write() as connection:
            [self.id] = insert_executions(connection, make_execution())

    def make_event(self, kind: EventKind, attempt: int = 1, **data: Any) -> Event:
        """Return an event that is later than all before it."""
        event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(_numbers), 0))
        return Event(event_id, kind, self.id, attempt, data)

    def record_events(self, *reports: Event) -> ExecutionRow:
        """Record these events in one transaction of the relay; return the execution afterwards."""
        with self.database.write() as connection:
            record_progress(connection, reports)
            record_events(connection, reports)
        with self.database.read() as connection:
            row = executions.get(connection, self.id)
        assert row is not None
        return row


@pytest.fixture
def driver(database: Database) -> ProgressDriver:
    """Driver on SQLite, then on PostgreSQL."""
    return ProgressDriver(database)


def test_latest_progress_is_stored(driver: ProgressDriver) -> None:
    row = driver.record_events(
        driver.make_event(EventKind.RUNNING, worker="w"),
        driver.make_event(EventKind.PROGRESS, done=1, total=3, message=None),
        driver.make_event(EventKind.PROGRESS, done=2, total=3, message="so far", more="?"),
    )
    assert row.progress == {"done": 2, "total": 3, "message": "so far", "attempt": 1}
    assert row.metadata is None


def test_progress_and_metadata_of_the_end_are_stored(driver: ProgressDriver) -> None:
    driver.record_events(
        driver.make_event(EventKind.RUNNING, worker="w"), driver.make_event(EventKind.METADATA, page=1, cursor="a")
    )
    ended: dict[str, Any] = {"progress": {"done": 3, "total": 3, "message": None}, "metadata": {"page": 2}, "result": 7}
    row = driver.record_events(
        driver.make_event(EventKind.PROGRESS, done=1), driver.make_event(EventKind.SUCCEEDED, **ended)
    )
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, 7)
    assert row.progress == {"done": 3, "total": 3, "message": None, "attempt": 1}
    assert row.metadata == {"page": 2, "cursor": "a"}


def test_metadata_is_merged_over_reports_and_attempts(driver: ProgressDriver) -> None:
    driver.record_events(
        driver.make_event(EventKind.METADATA, page=1, cursor="a"),
        driver.make_event(EventKind.METADATA, page=2, seen=[1, {"x": None}]),
    )
    row = driver.record_events(
        driver.make_event(EventKind.RETRYING, delay=0, reason="again"),
        driver.make_event(EventKind.METADATA, 2, cursor=None, new=1),
    )
    assert row.metadata == {"page": 2, "seen": [1, {"x": None}], "new": 1}


def test_reports_of_a_lost_attempt_are_ignored(driver: ProgressDriver) -> None:
    driver.record_events(
        driver.make_event(EventKind.RUNNING, worker="w1"), driver.make_event(EventKind.LOST, worker="w1")
    )
    driver.record_events(
        driver.make_event(EventKind.RUNNING, 2, worker="w2"),
        driver.make_event(EventKind.PROGRESS, 2, done=1),
        driver.make_event(EventKind.METADATA, 2, a=1),
    )
    row = driver.record_events(
        driver.make_event(EventKind.PROGRESS, 1, done=99), driver.make_event(EventKind.METADATA, 1, a=99)
    )
    assert (row.progress["done"], row.metadata) == (1, {"a": 1})  # type: ignore[index]


def test_reports_after_the_end_are_ignored(driver: ProgressDriver) -> None:
    driver.record_events(
        driver.make_event(EventKind.RUNNING, worker="w"), driver.make_event(EventKind.SUCCEEDED, worker="w")
    )
    row = driver.record_events(
        driver.make_event(EventKind.PROGRESS, done=99), driver.make_event(EventKind.METADATA, a=99)
    )
    assert (row.progress, row.metadata) == (None, None)


def test_invalid_progress_and_metadata_are_ignored(driver: ProgressDriver) -> None:
    row = driver.record_events(driver.make_event(EventKind.RUNNING, worker="w", progress=7, metadata=["a"]))
    assert (row.state, row.progress, row.metadata) == (ExecutionState.RUNNING, None, None)


def test_metadata_of_two_attempts_share_one_size_limit(driver: ProgressDriver) -> None:
    driver.record_events(driver.make_event(EventKind.METADATA, a="x" * 10_000))
    row = driver.record_events(driver.make_event(EventKind.METADATA, b="x" * 10_000))
    assert row.metadata == {"a": "x" * 10_000}


def test_end_report_stores_result_file(driver: ProgressDriver) -> None:
    file = {"name": "result-1.json", "size": 100_000, "sha256": "00", "host": "h"}
    row = driver.record_events(driver.make_event(EventKind.SUCCEEDED, result=None, result_file=file))
    assert (row.state, row.result, row.result_file) == (ExecutionState.SUCCEEDED, None, file)
