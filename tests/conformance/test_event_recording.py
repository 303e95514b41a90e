"""Effects of reports on rows: unstarted messages, interrupted attempts, and tasks that a worker lacks."""

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
import structlog.testing

from jobworker.domain.executions import events, worker_loss
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import AttemptState, ExecutionState
from jobworker.domain.executions.worker_loss import MAX_LOSSES
from jobworker.domain.jobs.definition import JobDefinition, JobOwner, OnWorkerLost
from jobworker.relay import event_recorder
from jobworker.relay.event_recorder import ClaimedMessage, DeclinedMessage, RecordedEvents, record_events
from jobworker.store import jobs
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, executions, history, timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.executions.timeline import AttemptRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, insert_executions, make_execution

SEND = JobDefinition("send", "tasks.mail.send")


class EventRecordingDriver:
    """Published execution, and the reports of workers about it in the order of the stream."""

    def __init__(self, database: Database, on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY) -> None:
        self.database = database
        self._numbers = itertools.count(1)
        with database.write() as connection:
            jobs.upsert(connection, replace(SEND, on_worker_lost=on_worker_lost), JobOwner.API, "ann", NOW)
            [self.id] = insert_executions(connection, make_execution())
        self.publish_attempt()

    def publish_attempt(self) -> None:
        """Publish the next attempt."""
        with self.database.write() as connection:
            due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
            found = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
            dispatch.mark_published(connection, [(row.id, row.attempt, row.priority) for row in found], NOW)

    def record_event(
        self, kind: EventKind, attempt: int = 1, execution: str | None = None, **data: Any
    ) -> RecordedEvents:
        """Record one report."""
        event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(self._numbers), 0))
        event = events.Event(event_id, kind, self.id if execution is None else execution, attempt, data)
        with self.database.write() as connection:
            return record_events(connection, [event])

    @property
    def row(self) -> ExecutionRow:
        """Current row of the execution."""
        with self.database.read() as connection:
            row = executions.get(connection, self.id)
        assert row is not None
        return row

    @property
    def attempts(self) -> Sequence[AttemptRow]:
        """Attempts of the execution."""
        with self.database.read() as connection:
            return timeline.list_attempts(connection, self.id).items

    @property
    def transitions(self) -> list[tuple[int, str, str, str | None]]:
        """List of (attempt, state, actor, reason) of each transition."""
        with self.database.read() as connection:
            return [
                (row.attempt, row.state, row.actor, row.reason)
                for row in timeline.list_all_transitions(connection, self.id)
            ]


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
    for batch, told in ((None, 1), ("b", 0)):
        driver = EventRecordingDriver(database)
        with database.write() as connection:
            mine = core.executions.c.id == driver.id
            connection.execute(sa.update(core.executions).where(mine).values(schedule_id="s", batch_id=batch))
        ended = driver.record_event(EventKind.REJECTED, worker="w", error=UNREADABLE)
        assert len(ended.schedule_ends) == told


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


def test_interrupted_attempt_runs_again_at_once(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.INTERRUPTED, worker="w1", reason="the worker was shut down")
    row = driver.row
    assert (row.state, row.attempt, row.reason) == (ExecutionState.RETRYING, 1, "the worker was shut down")
    [attempt] = driver.attempts
    assert (attempt.state, attempt.reason) == (AttemptState.INTERRUPTED, "the worker was shut down")
    assert row.due_at == attempt.finished_at
    assert driver.transitions[-1] == (1, "Retrying", "worker:w1", "the worker was shut down")


def test_interruptions_are_not_limited(database: Database) -> None:
    driver = EventRecordingDriver(database)
    for attempt in range(1, MAX_LOSSES + 3):
        driver.record_event(EventKind.RUNNING, attempt, worker="w1")
        driver.record_event(EventKind.INTERRUPTED, attempt, worker="w1", reason="shut down")
        assert driver.row.state is ExecutionState.RETRYING
        driver.publish_attempt()
    with database.read() as connection:
        standing = history.get_many(connection, [driver.id])[driver.id].standing
    assert standing.interrupted_attempts == {1, 2, 3, 4, 5}
    assert standing.lost_attempts == frozenset()


def test_snoozed_attempt_uses_no_retry_and_is_passed_to_next_publication(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.RETRYING, worker="w1", delay=5, reason="closed", snoozed=True)
    assert (driver.row.state, driver.row.reason, driver.row.error) == (ExecutionState.RETRYING, "closed", None)
    assert [(attempt.state, attempt.reason) for attempt in driver.attempts] == [(AttemptState.SNOOZED, "closed")]
    with database.write() as connection:
        due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
        [ready] = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
    assert (ready.attempt, ready.lost_attempts, ready.snoozed_attempts) == (1, None, [1])


def test_snoozes_are_limited(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "MAX_SNOOZES", 3)
    driver = EventRecordingDriver(database)
    for attempt in (1, 2, 3):
        assert driver.row.state is not ExecutionState.FAILED
        driver.record_event(EventKind.RUNNING, attempt, worker="w1")
        driver.record_event(EventKind.RETRYING, attempt, worker="w1", delay=0, reason="closed", snoozed=True)
        driver.publish_attempt()
    reason = "it was snoozed 3 times; the last time: closed"
    assert (driver.row.state, driver.row.reason) == (ExecutionState.FAILED, reason)
    assert driver.row.error == {"type": "Snoozed", "message": reason, "traceback": None}
    assert [attempt.state for attempt in driver.attempts] == [AttemptState.SNOOZED] * 3


def test_losses_are_counted_across_interruptions(database: Database) -> None:
    driver = EventRecordingDriver(database)
    ends = [EventKind.LOST, EventKind.INTERRUPTED, EventKind.LOST, EventKind.INTERRUPTED, EventKind.LOST]
    for attempt, kind in enumerate(ends, start=1):
        assert driver.row.state is not ExecutionState.FAILED
        driver.record_event(EventKind.RUNNING, attempt, worker="w1")
        driver.record_event(kind, attempt, worker="w1", reason="gone")
        driver.publish_attempt()
    assert driver.row.state is ExecutionState.FAILED
    assert driver.row.reason == "gone; it took 3 workers with it and is not started again"


def _report_lost(driver: EventRecordingDriver, attempt: int, begun: bool) -> None:
    if begun:
        driver.record_event(EventKind.RUNNING, attempt, worker="w1")
    driver.record_event(EventKind.LOST, attempt, worker="w1", reason="gone")
    driver.publish_attempt()


@pytest.mark.parametrize(
    ("begun", "poisoned"),
    [
        ([True, True, True], True),
        # The first start was not announced: the attempt may have killed its worker before the announcement.
        ([False, True, True], True),
        ([False, False, False, False], False),
        ([True, False, False, False], False),
        ([True, False, True], True),
        ([False, False, True], False),
        ([False, False, True, True], True),
        ([True, True], False),
    ],
)
def test_loss_counts_only_when_attempt_had_begun(database: Database, begun: list[bool], poisoned: bool) -> None:
    driver = EventRecordingDriver(database)
    for attempt, each in enumerate(begun, start=1):
        assert driver.row.state is ExecutionState.QUEUED
        _report_lost(driver, attempt, each)
    assert driver.row.state is (ExecutionState.FAILED if poisoned else ExecutionState.QUEUED)
    if poisoned:
        assert driver.row.error is not None
        assert driver.row.error["type"] == "Poisoned"
        assert driver.row.dead_letter == "open"


def test_non_repeatable_job_runs_again_if_its_attempt_never_began(database: Database) -> None:
    driver = EventRecordingDriver(database, OnWorkerLost.FAIL)
    _report_lost(driver, 1, begun=False)
    assert (driver.row.state, driver.row.attempt) == (ExecutionState.QUEUED, 1)
    driver.record_event(EventKind.INTERRUPTED, 2, worker="w1", reason="shut down")
    assert (driver.row.state, driver.row.reason) == (
        ExecutionState.RETRYING,
        "shut down, as far as is known before it began",
    )
    driver.publish_attempt()
    _report_lost(driver, 3, begun=True)
    assert (driver.row.state, driver.row.attempt) == (ExecutionState.FAILED, 3)


def test_announcement_is_required_after_loss_and_for_non_repeatable_job() -> None:
    assert not worker_loss.is_announcement_required(OnWorkerLost.RETRY, None)
    assert worker_loss.is_announcement_required(OnWorkerLost.RETRY, [1])
    assert worker_loss.is_announcement_required(OnWorkerLost.FAIL, None)
    assert [worker_loss.is_own_process_required(lost) for lost in (None, [1], [1, 3], [1, 2, 5])] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("kind", "error", "ended"),
    [
        (EventKind.INTERRUPTED, "WorkerStopped", AttemptState.INTERRUPTED),
        (EventKind.LOST, "WorkerLost", AttemptState.LOST),
    ],
)
def test_non_repeatable_job_fails_when_its_attempt_is_cut_short(
    database: Database, kind: EventKind, error: str, ended: AttemptState
) -> None:
    driver = EventRecordingDriver(database, OnWorkerLost.FAIL)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(kind, worker="w1", reason="so")
    assert (driver.row.state, driver.row.reason) == (ExecutionState.FAILED, "so")
    assert driver.row.error == {"type": error, "message": "so", "traceback": None}
    assert [attempt.state for attempt in driver.attempts] == [ended]


def test_interrupted_attempt_is_passed_to_next_publication(database: Database) -> None:
    driver = EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    driver.record_event(EventKind.INTERRUPTED, worker="w1", reason="so")
    with database.write() as connection:
        due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
        [ready] = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
    assert (ready.attempt, ready.lost_attempts, ready.interrupted_attempts) == (1, None, [1])


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
    driver, other = EventRecordingDriver(database), EventRecordingDriver(database)
    driver.record_event(EventKind.RUNNING, worker="w1")
    other.record_event(EventKind.RUNNING, worker="w1")
    other.record_event(EventKind.RETRYING, worker="w1", delay=0, reason="again")
    other.publish_attempt()
    with database.write() as connection:
        dispatch.mark_unpublished(connection, [(driver.id, 1), (other.id, 1)])
    assert driver.row.dispatched_at is not None
    assert other.row.dispatched_at is not None, "the message of attempt 2 was not declined"


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
