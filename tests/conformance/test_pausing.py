"""Pauses of schedules on both databases: by hand, with an end, and after failures."""

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobOwner
from jobworker.domain.schedules.schedule import MissedOccurrencePolicy
from jobworker.services.schedules import failure_counter, pauses
from jobworker.services.schedules.failure_counter import EndedExecution
from jobworker.store import audit
from jobworker.store.calendars import calendar_rows
from jobworker.store.database.database import Database
from jobworker.store.schedules import due_schedules
from jobworker.store.schedules.schedule_rows import ScheduleRow
from tests.conformance.schedule_driver import ScheduleDriver, at_minute


@pytest.fixture
def driver(database: Database) -> ScheduleDriver:
    """Driver with one job, and schedules that are due every minute."""
    return ScheduleDriver(database)


def pause_schedule(driver: ScheduleDriver, row: ScheduleRow, minutes: float, until: float | None = None) -> ScheduleRow:
    with driver.database.write() as connection:
        moment = at_minute(until) if until is not None else None
        return pauses.pause_schedule(connection, row, "stock-taking", moment, "me", at_minute(minutes))


def resume_schedule(
    driver: ScheduleDriver, row: ScheduleRow, minutes: float, policy: MissedOccurrencePolicy | None = None
) -> ScheduleRow:
    with driver.database.write() as connection:
        return pauses.resume_schedule(connection, driver.get_schedule(row), "me", at_minute(minutes), policy)


def fail_execution(driver: ScheduleDriver, row: ScheduleRow, *states: ExecutionState) -> ScheduleRow:
    with driver.database.write() as connection:
        failure_counter.count_failures(
            connection,
            [EndedExecution(row.id, f"e{number}", state) for number, state in enumerate(states)],
            at_minute(0.5),
        )
    return driver.get_schedule(row)


def test_paused_schedule_skips_occurrences_with_reason(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    pause_schedule(driver, tick, 1.5)
    driver.evaluate(tick, minutes=3)
    assert driver.list_outcomes(tick) == [(1, "fired"), (2, "skipped_paused"), (3, "skipped_paused")]
    assert driver.list_occurrences(tick)[1].reason == f"paused by me at {at_minute(1.5).isoformat()}: stock-taking"
    after = resume_schedule(driver, tick, 4.5)
    assert (after.paused_at, after.pause_note, after.next_at) == (None, None, at_minute(5))
    driver.evaluate(tick, minutes=5)
    assert [outcome for _, outcome in driver.list_outcomes(tick)][3:] == ["skipped_paused", "skipped_overlap"]
    with driver.database.read() as connection:
        assert [entry.action for entry in audit.list_by_subject(connection, "tick")][1:] == [
            "schedule.pause",
            "schedule.resume",
        ]


@pytest.mark.parametrize(
    ("policy", "fired"),
    [("skip", []), ("fire_once", [4]), ("catch_up", [3, 4])],
)
def test_resume_handles_missed_occurrences_by_policy(driver: ScheduleDriver, policy: str, fired: list[int]) -> None:
    tick = driver.put_schedule(on_resume=policy, misfire={"policy": "skip", "max": 2}, max_runs=10)
    pause_schedule(driver, tick, 0.5)
    after = resume_schedule(driver, tick, 4.5)
    assert [minute for minute, outcome in driver.list_outcomes(tick) if outcome == "fired"] == fired
    assert len(driver.list_outcomes(tick)) == 4
    assert [execution.scheduled_for for execution in driver.list_executions()] == [
        at_minute(minute) for minute in fired
    ]
    assert after.runs == len(fired)
    again = resume_schedule(driver, tick, 4.6)
    assert again == after
    for row in driver.list_occurrences(tick):
        if row.outcome == "fired":
            assert row.reason == "skipped by a pause, and fired when me ended the pause"


def test_resume_overrides_missed_occurrence_policy(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    pause_schedule(driver, tick, 0.5)
    resume_schedule(driver, tick, 2.5, MissedOccurrencePolicy.FIRE_ONCE)
    assert driver.list_outcomes(tick) == [(1, "skipped_paused"), (2, "fired")]


def test_catch_up_after_pause_applies_calendars_of_the_nominal_time(driver: ScheduleDriver) -> None:
    def close(*days: str) -> None:
        with driver.database.write() as connection:
            spec = {"kind": "dates", "days": dict.fromkeys(days, "closed")}
            calendar_rows.upsert(connection, "days-off", spec, JobOwner.API, "me", at_minute(0))

    first, second, third = (at_minute(days * 1440).date().isoformat() for days in (1, 2, 3))
    close(third)
    daily = driver.put_schedule(rule={"kind": "interval", "every": 86400}, exclude=["days-off"], misfire={"max": 2})
    pause_schedule(driver, daily, 0.5)
    driver.evaluate(daily, minutes=3 * 1440)
    close(first, second)
    resume_schedule(driver, daily, 3 * 1440 + 1, MissedOccurrencePolicy.CATCH_UP)
    assert [outcome for _, outcome in driver.list_outcomes(daily)] == ["fired", "fired", "skipped_calendar"]


def test_pause_with_end_skips_nothing_after_its_end(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    pause_schedule(driver, tick, 0.5, until=2)
    driver.evaluate(tick, minutes=1)
    driver.evaluate(tick, minutes=2)
    assert driver.list_outcomes(tick) == [(1, "skipped_paused"), (2, "fired")]
    with driver.database.read() as connection:
        assert due_schedules.list_ended_pauses(connection, at_minute(1.9), 10) == []
        assert due_schedules.list_ended_pauses(connection, at_minute(2), 10) == [tick.id]


def test_pause_change_keeps_its_begin(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    row = pause_schedule(driver, tick, 0.5, until=2)
    row = pause_schedule(driver, row, 1)
    assert (row.paused_at, row.paused_until) == (at_minute(0.5), None)
    with pytest.raises(InvalidInput) as refused:
        pause_schedule(driver, row, 3, until=2)
    assert [(problem.pointer, problem.code) for problem in refused.value.errors] == [("/until", "past_time")]


def test_consecutive_failures_pause_schedule(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(pause_after_failures=3)
    assert fail_execution(driver, tick, ExecutionState.FAILED, ExecutionState.TIMED_OUT).failures == 2
    assert fail_execution(driver, tick, ExecutionState.CANCELLED, ExecutionState.SUCCEEDED).failures == 0
    after = fail_execution(
        driver, tick, ExecutionState.FAILED, ExecutionState.FAILED, ExecutionState.FAILED, ExecutionState.FAILED
    )
    assert (after.paused_at, after.paused_by) == (at_minute(0.5), "relay")
    assert after.pause_note == "3 executions in a row failed; the last of them is e2"
    assert resume_schedule(driver, tick, 0.6).failures == 0
    assert fail_execution(driver, driver.put_schedule("other"), *[ExecutionState.FAILED] * 9).paused_at is None
