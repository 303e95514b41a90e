"""Deadlines of a job in a process of its own, and the action that is due at each."""

import datetime as dt

import pytest

from jobworker.clock import ManualClock
from jobworker.worker.isolation.deadlines import (
    CANCEL_TIMEOUT_SECONDS,
    STARTUP_TIMEOUT_SECONDS,
    TERMINATE_TIMEOUT_SECONDS,
    DeadlineAction,
    ProgramDeadlines,
    StopReason,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(dt.datetime(2026, 3, 2, tzinfo=dt.UTC))


def list_due_after(clock: ManualClock, deadlines: ProgramDeadlines, seconds: float) -> list[DeadlineAction]:
    """Return the actions that become due when this time (s) has passed."""
    clock.advance(seconds)
    return list(deadlines.take_due_actions())


def test_no_action_due_without_limits(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock)
    deadlines.start()
    assert list_due_after(clock, deadlines, 10**6) == []
    assert deadlines.stop_reason is None


def test_soft_limit_then_termination_then_end(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, soft=5, hard=10)
    deadlines.start()
    assert list_due_after(clock, deadlines, 4) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.NOTIFY_SOFT_LIMIT]
    assert list_due_after(clock, deadlines, 4) == []
    assert (list_due_after(clock, deadlines, 1), deadlines.stop_reason) == (
        [DeadlineAction.TERMINATE],
        StopReason.HARD_LIMIT,
    )
    assert list_due_after(clock, deadlines, TERMINATE_TIMEOUT_SECONDS) == [DeadlineAction.END]


def test_limits_count_from_job_start(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, hard=10)
    assert list_due_after(clock, deadlines, 20) == []
    deadlines.start()
    assert list_due_after(clock, deadlines, 9) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.TERMINATE]


def test_job_that_never_starts_terminated(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock)
    assert list_due_after(clock, deadlines, STARTUP_TIMEOUT_SECONDS) == [DeadlineAction.TERMINATE]
    assert deadlines.stop_reason is StopReason.NOT_STARTED


def test_extension_moves_both_limits_and_repeats_soft_limit(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, soft=5, hard=10)
    deadlines.start()
    assert list_due_after(clock, deadlines, 5) == [DeadlineAction.NOTIFY_SOFT_LIMIT]
    deadlines.extend(100)
    assert (deadlines.soft, deadlines.hard) == (105, 110)
    assert list_due_after(clock, deadlines, 99) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.NOTIFY_SOFT_LIMIT]
    assert list_due_after(clock, deadlines, 5) == [DeadlineAction.TERMINATE]


def test_cancelled_job_terminated_after_timeout(clock: ManualClock) -> None:
    cancel_requests: list[bool] = []
    deadlines = ProgramDeadlines(clock, cancelled=lambda: bool(cancel_requests))
    deadlines.start()
    assert list_due_after(clock, deadlines, 1) == []
    cancel_requests.append(True)
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.NOTIFY_CANCELLED]
    assert list_due_after(clock, deadlines, CANCEL_TIMEOUT_SECONDS - 1) == []
    assert (list_due_after(clock, deadlines, 1), deadlines.stop_reason) == (
        [DeadlineAction.TERMINATE],
        StopReason.CANCELLED,
    )
    assert list_due_after(clock, deadlines, TERMINATE_TIMEOUT_SECONDS) == [DeadlineAction.END]


def test_reported_job_that_stays_alive_ended(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, hard=3)
    deadlines.start()
    deadlines.mark_ended()
    assert list_due_after(clock, deadlines, TERMINATE_TIMEOUT_SECONDS - 1) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.END]
    assert list_due_after(clock, deadlines, 10) == [DeadlineAction.END]
    assert deadlines.stop_reason is None
