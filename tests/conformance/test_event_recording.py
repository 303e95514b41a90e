"""Effects of reports on rows: started and unstarted messages, and tasks that a worker lacks."""

from typing import Any

import pytest
import sqlalchemy as sa
import structlog.testing

from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import AttemptState, ExecutionState
from jobworker.relay.event_recorder import ClaimedMessage, DeclinedMessage, RecordedEvents
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.tables import core
from tests.conformance.event_recording_driver import SEND, EventRecordingDriver
from tests.conformance.factories import NOW

UNREADABLE = {"type": "DecodeError", "message": "no JSON", "traceback": None}


@pytest.mark.parametrize(
    ("kind", "data", "state", "error", "actor"),
    [
        (EventKind.EXPIRED, {"worker": "w"}, ExecutionState.SKIPPED, None, "worker:w"),
        (EventKind.REJECTED, {"worker": "w", "error": UNREADABLE}, ExecutionState.FAILED, UNREADABLE, "worker:w"),
    ],
)
def test_unstarted_message_ends_its_execution(
    database: Database,
    kind: EventKind,
    data: dict[str, Any],
    state: ExecutionState,
    error: dict[str, Any] | None,
    actor: str,
) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(kind, reason="so", **data)
    row = driver.row
    assert (row.state, row.reason, row.error, row.finished_at is not None) == (state, "so", error, True)
    assert (row.attempt, row.started_at, row.worker) == (0, None, None), "it must not look as if it had started"
    assert driver.attempts == []
    assert driver.transitions == [(0, "Queued", "tester", "submitted"), (0, state, actor, "so")]


def test_end_of_backfill_execution_is_not_counted_for_its_schedule(database: Database) -> None:
    for batch, end_count in ((None, 1), ("b", 0)):
        driver = EventRecordingDriver(database)
        with database.write() as connection:
            mine = core.executions.c.id == driver.id
            connection.execute(sa.update(core.executions).where(mine).values(schedule_id="s", batch_id=batch))
        ended = driver.record_event(EventKind.REJECTED, worker="w", error=UNREADABLE)
        assert len(ended.schedule_ends) == end_count


def test_rejected_later_attempt_leaves_earlier_attempts_unchanged(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.RETRYING, worker="w1", delay=0, reason="again")
    before = driver.attempts
    driver.publish_attempt()
    driver.record_event(EventKind.REJECTED, attempt=2, reason="so")
    assert (driver.row.state, driver.row.attempt, driver.row.worker) == (ExecutionState.FAILED, 1, "w1")
    assert driver.attempts == before
    assert [(attempt, state) for attempt, state, _, _ in driver.transitions] == [
        (0, "Queued"),
        (1, "Running"),
        (1, "Retrying"),
        (1, "Queued"),
        (1, "Failed"),
    ]


def test_running_attempt_is_not_ended_by_report_about_its_successor(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.EXPIRED, attempt=2, worker="w2", reason="so")
    assert [(row.attempt, row.state, row.finished_at) for row in driver.attempts] == [(1, AttemptState.RUNNING, None)]


def test_started_attempt_outweighs_rejection_of_a_copy(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.REJECTED, worker="w2", reason="a copy that cannot be read")
    assert driver.row.state is ExecutionState.RUNNING
    driver.record_event(EventKind.SUCCEEDED, worker="w1", result=7)
    assert (driver.row.state, driver.row.result) == (ExecutionState.SUCCEEDED, 7)


def test_declined_message_is_returned_and_row_is_unchanged(database: Database) -> None:
    driver = EventRecordingDriver(database)
    before = driver.row
    answer = driver.record_event(EventKind.UNKNOWN_TASK, worker="old", reason="no such task here")
    assert answer == RecordedEvents([], [DeclinedMessage(driver.id, 1, SEND.task, "old")])
    assert driver.row == before
    assert driver.record_event(EventKind.UNKNOWN_TASK, execution="nobody", worker="old") == RecordedEvents()


def test_withdrawn_message_becomes_ready_again(database: Database) -> None:
    driver = EventRecordingDriver(database)
    with database.write() as connection:
        dispatch.mark_unpublished(connection, [(driver.id, 1)])
    assert driver.row.dispatched_at is None
    with database.read() as connection:
        assert [row.id for row in dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)] == [
            driver.id
        ]


def test_declined_message_of_progressed_execution_stays_published(database: Database) -> None:
    driver, retried_driver = EventRecordingDriver(database), EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    retried_driver.record_event(EventKind.RUNNING, worker="w1")
    retried_driver.record_event(EventKind.RETRYING, worker="w1", delay=0, reason="again")
    retried_driver.publish_attempt()
    with database.write() as connection:
        dispatch.mark_unpublished(connection, [(driver.id, 1), (retried_driver.id, 1)])
    assert driver.row.dispatched_at is not None
    assert retried_driver.row.dispatched_at is not None, "the message of attempt 2 was not declined"


@pytest.mark.parametrize("kind", [EventKind.EXPIRED, EventKind.REJECTED, EventKind.POISONED, EventKind.UNKNOWN_TASK])
def test_foreign_message_logs_a_warning_and_creates_no_row(database: Database, kind: EventKind) -> None:
    driver = EventRecordingDriver(database)
    before = driver.row
    with structlog.testing.capture_logs() as logs:
        answer = driver.record_event(kind, 0, "", message="m-1", task="theirs", queue="default", reason="so")
    assert answer == RecordedEvents()
    assert logs == [
        {
            "event": "foreign_message_given_up",
            "log_level": "warning",
            "fate": kind.value,
            "message": "m-1",
            "task": "theirs",
            "queue": "default",
            "worker": None,
            "reason": "so",
        }
    ]
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(core.transitions)) == 1
    assert driver.row == before


def test_running_event_returns_priority_and_position_of_claimed_message(database: Database) -> None:
    driver = EventRecordingDriver(database)
    assert driver.record_event(EventKind.RUNNING, worker="w1") == RecordedEvents([ClaimedMessage("default", 5, NOW)])
