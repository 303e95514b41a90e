"""What reports make of rows: messages that never started, attempts that were cut short, tasks that a worker lacks."""

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
from jobworker.store.engine.database import Database
from jobworker.store.executions import dispatch, due_executions, executions, history, timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.executions.timeline import AttemptRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, insert_executions, make_execution

SEND = JobDefinition("send", "tasks.mail.send")


class EventRecordingDriver:
    """One published execution, and what workers say about it, in the order of the stream."""

    def __init__(self, database: Database, on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY) -> None:
        self.database = database
        self._numbers = itertools.count(1)
        with database.write() as connection:
            jobs.upsert(connection, replace(SEND, on_worker_lost=on_worker_lost), JobOwner.API, "ann", NOW)
            [self.id] = insert_executions(connection, make_execution())
        self.publish_attempt()

    def publish_attempt(self) -> None:
        """Bring the next attempt to Redis."""
        with self.database.write() as connection:
            due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
            found = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
            dispatch.mark_published(connection, [(row.id, row.attempt, row.priority) for row in found], NOW)

    def record_event(
        self, kind: EventKind, attempt: int = 1, execution: str | None = None, **data: Any
    ) -> RecordedEvents:
        """One report, recorded."""
        event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(self._numbers), 0))
        event = events.Event(event_id, kind, self.id if execution is None else execution, attempt, data)
        with self.database.write() as connection:
            return record_events(connection, [event])

    @property
    def row(self) -> ExecutionRow:
        """The execution as it stands."""
        with self.database.read() as connection:
            row = executions.get(connection, self.id)
        assert row is not None
        return row

    @property
    def attempts(self) -> Sequence[AttemptRow]:
        """Its attempts."""
        with self.database.read() as connection:
            return timeline.list_attempts(connection, self.id).items

    @property
    def transitions(self) -> list[tuple[int, str, str, str | None]]:
        """(attempt, state, actor, reason) of each change."""
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
def test_a_message_that_never_started_ends_its_execution(
    database: Database,
    kind: EventKind,
    data: dict[str, Any],
    state: ExecutionState,
    error: dict[str, Any] | None,
    actor: str,
) -> None:
    told = EventRecordingDriver(database)
    told.record_event(kind, reason="so", **data)
    row = told.row
    assert (row.state, row.reason, row.error, row.finished_at is not None) == (state, "so", error, True)
    assert (row.attempt, row.started_at, row.worker) == (0, None, None), "it must not look as if it had started"
    assert told.attempts == []
    assert told.transitions == [(0, "Queued", "tester", "submitted"), (0, state, actor, "so")]


def test_the_ends_of_a_backfill_say_nothing_about_its_schedule(database: Database) -> None:
    for batch, told in ((None, 1), ("b", 0)):
        story = EventRecordingDriver(database)
        with database.write() as connection:
            mine = core.executions.c.id == story.id
            connection.execute(sa.update(core.executions).where(mine).values(schedule_id="s", batch_id=batch))
        ended = story.record_event(EventKind.REJECTED, worker="w", error=UNREADABLE)
        assert len(ended.schedule_ends) == told


def test_the_attempts_that_did_run_stay_as_they_were(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.RETRYING, worker="w1", delay=0, reason="again")
    before = told.attempts
    told.publish_attempt()
    told.record_event(EventKind.REJECTED, attempt=2, reason="so")
    assert (told.row.state, told.row.attempt, told.row.worker) == (ExecutionState.FAILED, 1, "w1")
    assert told.attempts == before
    assert [(attempt, state) for attempt, state, _, _ in told.transitions] == [
        (0, "Queued"),
        (1, "Running"),
        (1, "Retrying"),
        (1, "Queued"),
        (1, "Failed"),
    ]


def test_an_attempt_whose_end_is_not_told_yet_is_not_ended_by_its_successor(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.EXPIRED, attempt=2, worker="w2", reason="so")
    assert [(row.attempt, row.state, row.finished_at) for row in told.attempts] == [(1, AttemptState.RUNNING, None)]


def test_an_attempt_that_did_start_is_believed_rather(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.REJECTED, worker="w2", reason="a copy that cannot be read")
    assert told.row.state is ExecutionState.RUNNING
    told.record_event(EventKind.SUCCEEDED, worker="w1", result=7)
    assert (told.row.state, told.row.result) == (ExecutionState.SUCCEEDED, 7)


def test_an_interrupted_attempt_runs_again_at_once(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.INTERRUPTED, worker="w1", reason="the worker was shut down")
    row = told.row
    assert (row.state, row.attempt, row.reason) == (ExecutionState.RETRYING, 1, "the worker was shut down")
    [attempt] = told.attempts
    assert (attempt.state, attempt.reason) == (AttemptState.INTERRUPTED, "the worker was shut down")
    assert row.due_at == attempt.finished_at
    assert told.transitions[-1] == (1, "Retrying", "worker:w1", "the worker was shut down")


def test_interruptions_are_never_too_many(database: Database) -> None:
    told = EventRecordingDriver(database)
    for attempt in range(1, MAX_LOSSES + 3):
        told.record_event(EventKind.RUNNING, attempt, worker="w1")
        told.record_event(EventKind.INTERRUPTED, attempt, worker="w1", reason="shut down")
        assert told.row.state is ExecutionState.RETRYING
        told.publish_attempt()
    with database.read() as connection:
        standing = history.get_many(connection, [told.id])[told.id].standing
    assert standing.interrupted_attempts == {1, 2, 3, 4, 5}
    assert standing.lost_attempts == frozenset()


def test_being_put_off_uses_up_no_retry_and_is_told_to_whoever_publishes_next(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.RETRYING, worker="w1", delay=5, reason="closed", snoozed=True)
    assert (told.row.state, told.row.reason, told.row.error) == (ExecutionState.RETRYING, "closed", None)
    assert [(attempt.state, attempt.reason) for attempt in told.attempts] == [(AttemptState.SNOOZED, "closed")]
    with database.write() as connection:
        due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
        [ready] = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
    assert (ready.attempt, ready.lost_attempts, ready.snoozed_attempts) == (1, None, [1])


def test_nobody_is_put_off_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "MAX_SNOOZES", 3)
    told = EventRecordingDriver(database)
    for attempt in (1, 2, 3):
        assert told.row.state is not ExecutionState.FAILED
        told.record_event(EventKind.RUNNING, attempt, worker="w1")
        told.record_event(EventKind.RETRYING, attempt, worker="w1", delay=0, reason="closed", snoozed=True)
        told.publish_attempt()
    reason = "it was snoozed 3 times; the last time: closed"
    assert (told.row.state, told.row.reason) == (ExecutionState.FAILED, reason)
    assert told.row.error == {"type": "Snoozed", "message": reason, "traceback": None}
    assert [attempt.state for attempt in told.attempts] == [AttemptState.SNOOZED] * 3


def test_losses_count_however_often_it_was_interrupted_between(database: Database) -> None:
    told = EventRecordingDriver(database)
    ends = [EventKind.LOST, EventKind.INTERRUPTED, EventKind.LOST, EventKind.INTERRUPTED, EventKind.LOST]
    for attempt, kind in enumerate(ends, start=1):
        assert told.row.state is not ExecutionState.FAILED
        told.record_event(EventKind.RUNNING, attempt, worker="w1")
        told.record_event(kind, attempt, worker="w1", reason="gone")
        told.publish_attempt()
    assert told.row.state is ExecutionState.FAILED
    assert told.row.reason == "gone; it took 3 workers with it and is not started again"


def _report_lost(told: EventRecordingDriver, attempt: int, begun: bool) -> None:
    if begun:
        told.record_event(EventKind.RUNNING, attempt, worker="w1")
    told.record_event(EventKind.LOST, attempt, worker="w1", reason="gone")
    told.publish_attempt()


@pytest.mark.parametrize(
    ("begun", "poisoned"),
    [
        ([True, True, True], True),
        ([False, True, True], True),  # The first is not announced: it may have killed its worker before it was told.
        ([False, False, False, False], False),
        ([True, False, False, False], False),
        ([True, False, True], True),
        ([False, False, True], False),
        ([False, False, True, True], True),
        ([True, True], False),
    ],
)
def test_only_what_had_begun_is_held_against_a_job(database: Database, begun: list[bool], poisoned: bool) -> None:
    told = EventRecordingDriver(database)
    for attempt, each in enumerate(begun, start=1):
        assert told.row.state is ExecutionState.QUEUED
        _report_lost(told, attempt, each)
    assert told.row.state is (ExecutionState.FAILED if poisoned else ExecutionState.QUEUED)
    if poisoned:
        assert told.row.error is not None
        assert told.row.error["type"] == "Poisoned"
        assert told.row.dead_letter == "open"


def test_a_job_that_must_not_run_twice_starts_again_if_it_never_began(database: Database) -> None:
    told = EventRecordingDriver(database, OnWorkerLost.FAIL)
    _report_lost(told, 1, begun=False)
    assert (told.row.state, told.row.attempt) == (ExecutionState.QUEUED, 1)
    told.record_event(EventKind.INTERRUPTED, 2, worker="w1", reason="shut down")
    assert (told.row.state, told.row.reason) == (
        ExecutionState.RETRYING,
        "shut down, as far as is known before it began",
    )
    told.publish_attempt()
    _report_lost(told, 3, begun=True)
    assert (told.row.state, told.row.attempt) == (ExecutionState.FAILED, 3)


def test_the_start_after_a_loss_is_announced_and_that_of_what_must_not_run_twice() -> None:
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
def test_what_must_not_run_twice_fails_when_it_is_cut_short(
    database: Database, kind: EventKind, error: str, ended: AttemptState
) -> None:
    told = EventRecordingDriver(database, OnWorkerLost.FAIL)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(kind, worker="w1", reason="so")
    assert (told.row.state, told.row.reason) == (ExecutionState.FAILED, "so")
    assert told.row.error == {"type": error, "message": "so", "traceback": None}
    assert [attempt.state for attempt in told.attempts] == [ended]


def test_what_was_interrupted_is_told_to_whoever_publishes_next(database: Database) -> None:
    told = EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    told.record_event(EventKind.INTERRUPTED, worker="w1", reason="so")
    with database.write() as connection:
        due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
        [ready] = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
    assert (ready.attempt, ready.lost_attempts, ready.interrupted_attempts) == (1, None, [1])


def test_a_declined_message_is_handed_on_and_the_row_stays(database: Database) -> None:
    told = EventRecordingDriver(database)
    before = told.row
    answer = told.record_event(EventKind.UNKNOWN_TASK, worker="old", reason="no such task here")
    assert answer == RecordedEvents([], [DeclinedMessage(told.id, 1, SEND.task, "old")])
    assert told.row == before
    assert told.record_event(EventKind.UNKNOWN_TASK, execution="nobody", worker="old") == RecordedEvents()


def test_messages_that_were_taken_back_become_ready_again(database: Database) -> None:
    told = EventRecordingDriver(database)
    with database.write() as connection:
        dispatch.mark_unpublished(connection, [(told.id, 1)])
    assert told.row.dispatched_at is None
    with database.read() as connection:
        assert [row.id for row in dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)] == [
            told.id
        ]


def test_what_has_gone_on_meanwhile_is_not_taken_back(database: Database) -> None:
    told, other = EventRecordingDriver(database), EventRecordingDriver(database)
    told.record_event(EventKind.RUNNING, worker="w1")
    other.record_event(EventKind.RUNNING, worker="w1")
    other.record_event(EventKind.RETRYING, worker="w1", delay=0, reason="again")
    other.publish_attempt()
    with database.write() as connection:
        dispatch.mark_unpublished(connection, [(told.id, 1), (other.id, 1)])
    assert told.row.dispatched_at is not None
    assert other.row.dispatched_at is not None, "the message of attempt 2 was not declined"


@pytest.mark.parametrize("kind", [EventKind.EXPIRED, EventKind.REJECTED, EventKind.POISONED, EventKind.UNKNOWN_TASK])
def test_a_message_of_others_leaves_a_warning_and_no_row(database: Database, kind: EventKind) -> None:
    told = EventRecordingDriver(database)
    before = told.row
    with structlog.testing.capture_logs() as logs:
        answer = told.record_event(kind, 0, "", message="m-1", task="theirs", queue="default", reason="so")
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
    assert told.row == before


def test_a_claim_tells_how_far_its_list_was_worked_off(database: Database) -> None:
    told = EventRecordingDriver(database)
    assert told.record_event(EventKind.RUNNING, worker="w1") == RecordedEvents([ClaimedMessage("default", 5, NOW)])
