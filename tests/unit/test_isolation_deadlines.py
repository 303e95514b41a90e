"""What a program is told, and when."""

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
    """What becomes due when so much time has passed."""
    clock.advance(seconds)
    return list(deadlines.take_due_actions())


def test_without_limits_nothing_is_ever_due(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock)
    deadlines.start()
    assert list_due_after(clock, deadlines, 10**6) == []
    assert deadlines.stop_reason is None


def test_soft_then_hard_then_the_end(clock: ManualClock) -> None:
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


def test_limits_count_from_the_beginning_of_the_job(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, hard=10)
    assert list_due_after(clock, deadlines, 20) == []
    deadlines.start()
    assert list_due_after(clock, deadlines, 9) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.TERMINATE]


def test_a_job_that_never_begins_ends(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock)
    assert list_due_after(clock, deadlines, STARTUP_TIMEOUT_SECONDS) == [DeadlineAction.TERMINATE]
    assert deadlines.stop_reason is StopReason.NOT_STARTED


def test_an_extension_moves_both_limits_and_warns_again(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, soft=5, hard=10)
    deadlines.start()
    assert list_due_after(clock, deadlines, 5) == [DeadlineAction.NOTIFY_SOFT_LIMIT]
    deadlines.extend(100)
    assert (deadlines.soft, deadlines.hard) == (105, 110)
    assert list_due_after(clock, deadlines, 99) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.NOTIFY_SOFT_LIMIT]
    assert list_due_after(clock, deadlines, 5) == [DeadlineAction.TERMINATE]


def test_who_does_not_end_by_himself_when_cancelled_is_ended(clock: ManualClock) -> None:
    wanted: list[bool] = []
    deadlines = ProgramDeadlines(clock, cancelled=lambda: bool(wanted))
    deadlines.start()
    assert list_due_after(clock, deadlines, 1) == []
    wanted.append(True)
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.NOTIFY_CANCELLED]
    assert list_due_after(clock, deadlines, CANCEL_TIMEOUT_SECONDS - 1) == []
    assert (list_due_after(clock, deadlines, 1), deadlines.stop_reason) == (
        [DeadlineAction.TERMINATE],
        StopReason.CANCELLED,
    )
    assert list_due_after(clock, deadlines, TERMINATE_TIMEOUT_SECONDS) == [DeadlineAction.END]


def test_who_has_said_how_it_ended_and_does_not_leave_is_ended(clock: ManualClock) -> None:
    deadlines = ProgramDeadlines(clock, hard=3)
    deadlines.start()
    deadlines.mark_ended()
    assert list_due_after(clock, deadlines, TERMINATE_TIMEOUT_SECONDS - 1) == []
    assert list_due_after(clock, deadlines, 1) == [DeadlineAction.END]
    assert list_due_after(clock, deadlines, 10) == [DeadlineAction.END]
    assert deadlines.stop_reason is None
