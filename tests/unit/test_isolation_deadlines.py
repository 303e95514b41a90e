"""What a program is told, and when."""

import datetime as dt

import pytest

from jobworker.clock import ManualClock
from jobworker.worker.isolation.deadlines import COOPERATION, GRACE, STARTUP, Cut, Deadlines, Step


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(dt.datetime(2026, 3, 2, tzinfo=dt.UTC))


def after(clock: ManualClock, deadlines: Deadlines, seconds: float) -> list[Step]:
    """What becomes due when so much time has passed."""
    clock.advance(seconds)
    return list(deadlines.take_due_actions())


def test_without_limits_nothing_is_ever_due(clock: ManualClock) -> None:
    deadlines = Deadlines(clock)
    deadlines.start()
    assert after(clock, deadlines, 10**6) == []
    assert deadlines.stop_reason is None


def test_soft_then_hard_then_the_end(clock: ManualClock) -> None:
    deadlines = Deadlines(clock, soft=5, hard=10)
    deadlines.start()
    assert after(clock, deadlines, 4) == []
    assert after(clock, deadlines, 1) == [Step.NOTIFY_SOFT_LIMIT]
    assert after(clock, deadlines, 4) == []
    assert (after(clock, deadlines, 1), deadlines.stop_reason) == ([Step.TERMINATE], Cut.HARD_LIMIT)
    assert after(clock, deadlines, GRACE) == [Step.END]


def test_limits_count_from_the_beginning_of_the_job(clock: ManualClock) -> None:
    deadlines = Deadlines(clock, hard=10)
    assert after(clock, deadlines, 20) == []
    deadlines.start()
    assert after(clock, deadlines, 9) == []
    assert after(clock, deadlines, 1) == [Step.TERMINATE]


def test_a_job_that_never_begins_ends(clock: ManualClock) -> None:
    deadlines = Deadlines(clock)
    assert after(clock, deadlines, STARTUP) == [Step.TERMINATE]
    assert deadlines.stop_reason is Cut.NOT_STARTED


def test_an_extension_moves_both_limits_and_warns_again(clock: ManualClock) -> None:
    deadlines = Deadlines(clock, soft=5, hard=10)
    deadlines.start()
    assert after(clock, deadlines, 5) == [Step.NOTIFY_SOFT_LIMIT]
    deadlines.extend(100)
    assert (deadlines.soft, deadlines.hard) == (105, 110)
    assert after(clock, deadlines, 99) == []
    assert after(clock, deadlines, 1) == [Step.NOTIFY_SOFT_LIMIT]
    assert after(clock, deadlines, 5) == [Step.TERMINATE]


def test_who_does_not_end_by_himself_when_cancelled_is_ended(clock: ManualClock) -> None:
    wanted: list[bool] = []
    deadlines = Deadlines(clock, cancelled=lambda: bool(wanted))
    deadlines.start()
    assert after(clock, deadlines, 1) == []
    wanted.append(True)
    assert after(clock, deadlines, 1) == [Step.NOTIFY_CANCELLED]
    assert after(clock, deadlines, COOPERATION - 1) == []
    assert (after(clock, deadlines, 1), deadlines.stop_reason) == ([Step.TERMINATE], Cut.CANCELLED)
    assert after(clock, deadlines, GRACE) == [Step.END]


def test_who_has_said_how_it_ended_and_does_not_leave_is_ended(clock: ManualClock) -> None:
    deadlines = Deadlines(clock, hard=3)
    deadlines.start()
    deadlines.mark_ended()
    assert after(clock, deadlines, GRACE - 1) == []
    assert after(clock, deadlines, 1) == [Step.END]
    assert after(clock, deadlines, 10) == [Step.END]
    assert deadlines.stop_reason is None
