"""Attempts that are cut short: interrupted, snoozed, or lost with their worker."""

import datetime as dt

import pytest

from jobworker.domain.executions import worker_loss
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import AttemptState, ExecutionState
from jobworker.domain.executions.worker_loss import MAX_LOSSES
from jobworker.domain.jobs.definition import OnWorkerLost
from jobworker.relay import event_recorder
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, history
from jobworker.store.executions.limit_usage import QueueBacklog
from tests.conformance.event_recording_driver import SEND, EventRecordingDriver
from tests.conformance.factories import NOW


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
        merged = history.get_many(connection, [driver.id])[driver.id].merged
    assert merged.interrupted_attempts == {1, 2, 3, 4, 5}
    assert merged.lost_attempts == frozenset()


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
    for attempt, has_begun in enumerate(begun, start=1):
        assert driver.row.state is ExecutionState.QUEUED
        _report_lost(driver, attempt, has_begun)
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
