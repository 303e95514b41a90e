"""Evaluation of schedules in SQL on both databases: occurrence rows, executions, and the state of each schedule."""

import logging

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import JobDisabled
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import OverlapPolicy
from jobworker.domain.schedules.schedule import ScheduleState as Standing
from jobworker.services.schedules import evaluator
from jobworker.store.database.database import Database
from jobworker.store.schedules import due_schedules, occurrence_rows, schedule_rows
from jobworker.store.schedules.occurrence_rows import OccurrenceRow
from jobworker.store.schedules.schedule_rows import SchedulePauseRecord
from jobworker.store.tables import core
from jobworker.store.tables.schedules import calendars, job_schedules
from jobworker.store.workflows import dependency_rows
from tests.conformance.schedule_driver import ScheduleDriver, at_minute
from tests.conftest import NOW


@pytest.fixture
def driver(database: Database) -> ScheduleDriver:
    """Driver with one job, and schedules that are due every minute."""
    return ScheduleDriver(database)


def test_due_occurrence_fires_once_when_evaluated_again(driver: ScheduleDriver) -> None:
    driver.put_job("send", Parameter("to", "string"))
    tick = driver.put_schedule(parameters={"to": "b"}, queue="low", priority=2)
    assert driver.evaluate(tick).count == 1
    assert driver.evaluate(tick).count == 0
    assert driver.evaluate(tick, minutes=0).count == 0
    assert driver.list_outcomes(tick) == [(1, "fired")]
    [execution] = driver.list_executions()
    assert (execution.schedule_id, execution.scheduled_for) == (tick.id, at_minute(1))
    assert (execution.queue, execution.priority, execution.parameters) == ("low", 2, {"to": "b"})
    assert (execution.state, execution.created_by) == (ExecutionState.QUEUED, "schedule:tick")
    after = driver.get_schedule(tick)
    assert (after.settled_until, after.next_at, after.runs) == (at_minute(1), at_minute(2), 1)


def test_many_schedules_are_evaluated_together(driver: ScheduleDriver) -> None:
    rows = [driver.put_schedule(f"tick{number}") for number in range(30)]
    assert driver.evaluate(*rows).count == 30
    assert {execution.created_by for execution in driver.list_executions()} == {f"schedule:{row.name}" for row in rows}
    assert all(driver.list_outcomes(row) == [(1, "fired")] for row in rows)


def test_occurrence_with_a_row_creates_no_execution(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(overlap="queue_all", misfire={"policy": "catch_up"})
    with driver.database.write() as connection:
        rows = [OccurrenceRow(tick.id, at_minute(1), "missed", None, None, NOW)]
        assert occurrence_rows.insert(connection, rows) == set()
        assert occurrence_rows.insert(connection, rows) == set()
    assert driver.evaluate(tick, minutes=3).count == 2
    assert driver.list_outcomes(tick) == [(1, "missed"), (2, "fired"), (3, "fired")]
    assert [execution.scheduled_for for execution in driver.list_executions()] == [at_minute(2), at_minute(3)]
    assert driver.list_states() == [ExecutionState.QUEUED, ExecutionState.WAITING]


def test_long_backlog_of_occurrences_is_evaluated_in_parts(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    done = driver.evaluate(tick, minutes=2500)
    assert (done.count, list(done.unfinished)) == (0, [tick.id])
    assert len(driver.list_occurrences(tick)) == 1000
    assert driver.evaluate(tick, minutes=2500).unfinished
    assert not driver.evaluate(tick, minutes=2500).unfinished
    ledger = driver.list_outcomes(tick)
    assert [minute for minute, _ in ledger] == list(range(1, 2501))
    assert [minute for minute, outcome in ledger if outcome == "fired"] == [2499]
    assert {outcome for _, outcome in ledger} == {"fired", "coalesced", "skipped_overlap"}


@pytest.mark.parametrize(
    ("policy", "late"), [({"policy": "skip"}, []), ({"policy": "catch_up", "max": 3}, [2496, 2497, 2498])]
)
def test_misfire_policy_holds_over_several_parts(
    driver: ScheduleDriver, policy: dict[str, object], late: list[int]
) -> None:
    tick = driver.put_schedule(misfire=policy, overlap="allow")
    while driver.evaluate(tick, minutes=2500).unfinished:
        pass
    assert [minute for minute, outcome in driver.list_outcomes(tick) if outcome == "fired"] == [*late, 2499, 2500]
    assert len(driver.list_outcomes(tick)) == 2500


def test_overlap_policy_decides_concurrent_executions(driver: ScheduleDriver) -> None:
    expected = {
        "skip": [ExecutionState.QUEUED],
        "queue_one": [ExecutionState.QUEUED, ExecutionState.WAITING],
        "queue_all": [ExecutionState.QUEUED, ExecutionState.WAITING, ExecutionState.WAITING],
        "allow": [ExecutionState.QUEUED] * 3,
    }
    rows = {overlap: driver.put_schedule(overlap, overlap=overlap) for overlap in expected}
    for minutes in (1, 2, 3):
        driver.evaluate(*rows.values(), minutes=minutes)
    for overlap, row in rows.items():
        assert [
            execution.state for execution in driver.list_executions() if execution.schedule_id == row.id
        ] == expected[overlap], overlap
        skipped = 3 - len(expected[overlap])
        assert [outcome for _, outcome in driver.list_outcomes(row)] == ["fired"] * (3 - skipped) + [
            "skipped_overlap"
        ] * skipped
    [first] = [execution.id for execution in driver.list_executions() if execution.schedule_id == rows["skip"].id]
    assert driver.list_occurrences(rows["skip"])[1].reason == f"execution {first} had not ended"


def test_cancel_running_cancels_earlier_executions_and_waits_for_their_end(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(overlap="cancel_running", jitter=3600)
    driver.evaluate(tick, minutes=1)
    with driver.database.write() as connection:
        connection.execute(sa.update(core.executions).values(state="Running"))
    driver.evaluate(tick, minutes=2)
    first, second = driver.list_executions()
    assert (first.state, first.cancel_requested_by) == (ExecutionState.RUNNING, "schedule:tick")
    assert second.state is ExecutionState.WAITING
    with driver.database.read() as connection:
        assert [row.execution_id for row in dependency_rows.list_parents(connection, second.id).items] == [first.id]
    driver.evaluate(tick, minutes=3)
    second = driver.list_executions()[1]
    assert (second.state, second.reason) == (
        ExecutionState.CANCELLED,
        f"the occurrence of {at_minute(3).isoformat()} takes its place",
    )


def test_disabled_or_missing_job_skips_occurrences_with_reason(driver: ScheduleDriver) -> None:
    tick, jobless = driver.put_schedule(), driver.put_schedule("other", job="nobody")
    driver.put_job(enabled=False)
    driver.evaluate(tick, jobless)
    assert [row.reason for schedule in (tick, jobless) for row in driver.list_occurrences(schedule)] == [
        "job send is disabled",
        "there is no job nobody",
    ]
    assert driver.list_outcomes(tick) == driver.list_outcomes(jobless) == [(1, "skipped_paused")]
    assert driver.list_executions() == []


def test_disabled_schedule_is_not_evaluated(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(enabled=False)
    assert driver.evaluate(tick, minutes=3).count == 0
    assert driver.list_outcomes(tick) == []
    assert driver.get_schedule(tick).next_at == at_minute(4)


def test_exhausted_schedule_records_one_row_after_its_last_run(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(max_runs=2, overlap="allow")
    driver.evaluate(tick, minutes=1)
    assert driver.get_schedule(tick).state is Standing.ACTIVE
    driver.evaluate(tick, minutes=2)
    assert driver.get_schedule(tick).state is Standing.EXHAUSTED
    for minutes in (3, 4, 50):
        driver.evaluate(tick, minutes=minutes)
    assert driver.list_outcomes(tick) == [(1, "fired"), (2, "fired"), (3, "exhausted")]
    after = driver.get_schedule(tick)
    assert (after.state, after.next_at, after.runs) == (Standing.EXHAUSTED, None, 2)


def test_once_rule_exhausts_its_schedule(driver: ScheduleDriver) -> None:
    once = driver.put_schedule(rule={"kind": "once", "at": at_minute(1).isoformat()})
    driver.evaluate(once)
    after = driver.get_schedule(once)
    assert (after.state, after.next_at) == (Standing.EXHAUSTED, None)
    assert driver.list_outcomes(once) == [(1, "fired")]


def test_calendar_rules_are_evaluated_at_the_occurrence(driver: ScheduleDriver) -> None:
    with driver.database.write() as connection:
        spec = {"kind": "dates", "days": {"2026-03-02": "Quiet day"}}
        values = {"revision": 1, "owner": "api", "spec": spec, "created_at": NOW, "changed_at": NOW}
        connection.execute(calendars.insert().values(name="quiet", **values))
    out, within = driver.put_schedule("out", exclude=["quiet"]), driver.put_schedule("within", require=["quiet"])
    driver.evaluate(out, within)
    assert driver.list_outcomes(out) == [(1, "skipped_calendar")]
    assert driver.list_outcomes(within) == [(1, "fired")]
    assert driver.list_occurrences(out)[0].reason == "within calendar quiet: Quiet day"


def test_duplicate_unique_key_records_skipped_duplicate(driver: ScheduleDriver) -> None:
    driver.put_job(policies={"unique": {"key": None, "until": "finished", "for": None, "on_conflict": "return"}})
    tick = driver.put_schedule(overlap="allow", misfire={"policy": "catch_up"})
    driver.evaluate(tick, minutes=2)
    [execution] = driver.list_executions()
    assert driver.list_outcomes(tick) == [(1, "fired"), (2, "skipped_duplicate")]
    assert driver.list_occurrences(tick)[1].reason == f"execution {execution.id} has its unique key"


def test_spread_delays_each_occurrence_by_a_constant_offset(driver: ScheduleDriver) -> None:
    rows = [driver.put_schedule(f"tick{number}", spread=600, overlap="allow") for number in range(5)]
    driver.evaluate(*rows, minutes=1)
    driver.evaluate(*rows, minutes=2)
    shares_by_schedule: dict[str | None, list[float]] = {}
    for execution in driver.list_executions():
        assert execution.state is ExecutionState.SCHEDULED
        assert execution.scheduled_for is not None
        share = (execution.due_at - execution.scheduled_for).total_seconds()
        shares_by_schedule.setdefault(execution.schedule_id, []).append(share)
    assert all(first == second and 0 <= first < 600 for first, second in shares_by_schedule.values())
    assert len({shares[0] for shares in shares_by_schedule.values()}) == 5


def test_invalid_parameters_fail_the_execution_and_pause_the_schedule(driver: ScheduleDriver) -> None:
    driver.put_job("send", Parameter("to", "string"))
    tick = driver.put_schedule(parameters={"to": 5}, pause_after_failures=2)
    driver.evaluate(tick)
    [execution] = driver.list_executions()
    assert execution.state is ExecutionState.FAILED
    assert execution.error is not None
    assert execution.error["type"] == "InvalidParameters"
    assert (driver.get_schedule(tick).failures, driver.get_schedule(tick).paused_at) == (1, None)
    driver.evaluate(tick, minutes=2)
    assert driver.get_schedule(tick).paused_at == at_minute(2)


def test_unreadable_schedule_is_logged_once_and_blocks_no_other(
    driver: ScheduleDriver, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = driver.put_schedule("bad"), driver.put_schedule("good")
    with driver.database.write() as connection:
        table = job_schedules
        connection.execute(sa.update(table).where(table.c.id == bad.id).values(spec={"rule": "whenever"}))
    with caplog.at_level(logging.ERROR):
        assert driver.evaluate(bad, good).count == 1
        assert driver.evaluate(bad, good, minutes=2).count == 0
    assert driver.list_outcomes(bad) == []
    assert [minute for minute, _ in driver.list_outcomes(good)] == [1, 2]


def test_fire_now_applies_overlap_policy_and_checks_job(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    with driver.database.write() as connection:
        assert evaluator.fire_now(connection, tick, at_minute(0.5), "me").outcome is OccurrenceOutcome.FIRED
        assert evaluator.fire_now(connection, tick, at_minute(0.6), "me").outcome is OccurrenceOutcome.SKIPPED_OVERLAP
        assert (
            evaluator.fire_now(connection, tick, at_minute(0.7), "me", OverlapPolicy.ALLOW).outcome
            is OccurrenceOutcome.FIRED
        )
    first = driver.list_executions()[0]
    assert [row.reason for row in driver.list_occurrences(tick)] == [
        "fired by hand by me",
        f"execution {first.id} had not ended",
        "fired by hand by me",
    ]
    assert (driver.get_schedule(tick).next_at, driver.get_schedule(tick).runs) == (at_minute(1), 2)
    driver.put_job(enabled=False)
    with driver.database.write() as connection, pytest.raises(JobDisabled):
        evaluator.fire_now(connection, tick, at_minute(0.8), "me")


def test_run_at_start_fires_an_occurrence_at_startup(driver: ScheduleDriver) -> None:
    eager, lazy = driver.put_schedule("eager", run_at_start=True), driver.put_schedule("lazy")
    with driver.database.write() as connection:
        assert due_schedules.list_run_at_start(connection) == [eager.id]
        assert evaluator.fire_at_start(connection, [eager.id, lazy.id], at_minute(0.5), "the relay was started") == 1
    assert driver.list_outcomes(eager) == [(0.5, "fired")]
    assert driver.list_outcomes(lazy) == []


def test_run_at_start_respects_start_end_and_initial_delay(driver: ScheduleDriver) -> None:
    rows = [
        driver.put_schedule("early", run_at_start=True, start=at_minute(1).isoformat()),
        driver.put_schedule("late", run_at_start=True, end=at_minute(0.5).isoformat()),
        driver.put_schedule("new", run_at_start=True, initial_delay=31),
        driver.put_schedule("never", run_at_start=True, rule={"kind": "once", "at": at_minute(-1).isoformat()}),
        driver.put_schedule("off", run_at_start=True, enabled=False),
    ]
    once = driver.put_schedule("once", run_at_start=True, max_runs=1)
    ids = [row.id for row in (*rows, once)]
    with driver.database.write() as connection:
        assert evaluator.fire_at_start(connection, ids, at_minute(0.5), "it was created") == 1
        assert evaluator.fire_at_start(connection, ids, at_minute(0.51), "the relay was started") == 0
    assert [driver.list_outcomes(row) for row in rows] == [[]] * 5
    assert driver.list_outcomes(once) == [(0.5, "fired")]
    with driver.database.write() as connection:
        assert evaluator.fire_at_start(connection, [row.id for row in rows], at_minute(1), "the relay was started") == 2
    assert [driver.list_outcomes(row) for row in rows[:3]] == [[(1, "fired")], [], [(1, "fired")]]


def test_run_at_start_is_skipped_while_paused(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule(run_at_start=True)
    with driver.database.write() as connection:
        schedule_rows.update_pause(connection, tick.id, SchedulePauseRecord(at_minute(0.2), "ann"))
        assert evaluator.fire_at_start(connection, [tick.id], at_minute(0.5), "the relay was started") == 0
    assert driver.list_outcomes(tick) == [(0.5, "skipped_paused")]


def test_evaluate_now_evaluates_due_occurrences(driver: ScheduleDriver) -> None:
    tick = driver.put_schedule()
    with driver.database.write() as connection:
        row = evaluator.evaluate_now(connection, tick, at_minute(2.5))
    assert (row.settled_until, row.next_at) == (at_minute(2), at_minute(3))
    assert [minute for minute, _ in driver.list_outcomes(tick)] == [1, 2]


def test_due_schedules_are_found_in_sql(driver: ScheduleDriver) -> None:
    first, second = driver.put_schedule("first"), driver.put_schedule("second", now=at_minute(1))
    driver.put_schedule("off", enabled=False)
    with driver.database.read() as connection:
        assert due_schedules.list_due(connection, at_minute(1), 10) == [(first.id, at_minute(1))]
        assert due_schedules.list_due(connection, at_minute(2), 10) == [
            (first.id, at_minute(1)),
            (second.id, at_minute(2)),
        ]
        assert due_schedules.list_due(connection, at_minute(2), 1) == [(first.id, at_minute(1))]
        assert due_schedules.get_next_due(connection, NOW) == at_minute(1)
        [upcoming] = due_schedules.list_upcoming(connection, (NOW, ""), at_minute(5), 1)
        assert (upcoming.id, upcoming.next_at) == (first.id, at_minute(1))
        assert [
            row.id for row in due_schedules.list_upcoming(connection, (upcoming.next_at, upcoming.id), at_minute(5), 9)
        ] == [second.id]
        assert due_schedules.list_upcoming(connection, (NOW, ""), at_minute(0.5), 9) == []
        assert due_schedules.get_next_due(connection, at_minute(1)) == at_minute(2)
        assert due_schedules.get_next_due(connection, at_minute(2)) is None
