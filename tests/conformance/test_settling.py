"""Settling schedules in SQL, on both databases: rows of the ledger, executions, how far each schedule has come."""

import logging

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import JobDisabled
from jobworker.domain.execution import ExecutionState
from jobworker.domain.parameters import Parameter
from jobworker.domain.schedule import OverlapPolicy
from jobworker.domain.schedule import ScheduleState as Standing
from jobworker.domain.settling import OccurrenceOutcome
from jobworker.services import firing
from jobworker.store import dependencies, occurrences, schedules, schema, settling
from jobworker.store.database import Database
from jobworker.store.occurrences import OccurrenceRow
from jobworker.store.schedules import SchedulePauseRecord
from tests.conformance.timetables import ScheduleDriver, at_minute
from tests.conftest import NOW


@pytest.fixture
def town(database: Database) -> ScheduleDriver:
    """One job, and schedules that are due every minute."""
    return ScheduleDriver(database)


def test_what_is_due_fires_once_however_often_it_is_said(town: ScheduleDriver) -> None:
    town.put_job("send", Parameter("to", "string"))
    tick = town.put_schedule(parameters={"to": "b"}, queue="low", priority=2)
    assert town.evaluate(tick).count == 1
    assert town.evaluate(tick).count == 0
    assert town.evaluate(tick, minutes=0).count == 0
    assert town.list_outcomes(tick) == [(1, "fired")]
    [execution] = town.list_executions()
    assert (execution.schedule_id, execution.scheduled_for) == (tick.id, at_minute(1))
    assert (execution.queue, execution.priority, execution.parameters) == ("low", 2, {"to": "b"})
    assert (execution.state, execution.created_by) == (ExecutionState.QUEUED, "schedule:tick")
    after = town.get_schedule(tick)
    assert (after.settled_until, after.next_at, after.runs) == (at_minute(1), at_minute(2), 1)


def test_many_schedules_are_settled_together(town: ScheduleDriver) -> None:
    rows = [town.put_schedule(f"tick{number}") for number in range(30)]
    assert town.evaluate(*rows).count == 30
    assert {execution.created_by for execution in town.list_executions()} == {f"schedule:{row.name}" for row in rows}
    assert all(town.list_outcomes(row) == [(1, "fired")] for row in rows)


def test_an_occurrence_with_a_row_makes_no_execution(town: ScheduleDriver) -> None:
    tick = town.put_schedule(overlap="queue_all", misfire={"policy": "catch_up"})
    with town.database.write() as connection:
        rows = [OccurrenceRow(tick.id, at_minute(1), "missed", None, None, NOW)]
        assert occurrences.insert(connection, rows) == set()
        assert occurrences.insert(connection, rows) == set()
    assert town.evaluate(tick, minutes=3).count == 2
    assert town.list_outcomes(tick) == [(1, "missed"), (2, "fired"), (3, "fired")]
    assert [execution.scheduled_for for execution in town.list_executions()] == [at_minute(2), at_minute(3)]
    assert town.list_states() == [ExecutionState.QUEUED, ExecutionState.WAITING]


def test_what_nobody_noticed_for_long_is_settled_in_parts(town: ScheduleDriver) -> None:
    tick = town.put_schedule()
    done = town.evaluate(tick, minutes=2500)
    assert (done.count, list(done.unfinished)) == (0, [tick.id])
    assert len(town.list_occurrences(tick)) == 1000
    assert town.evaluate(tick, minutes=2500).unfinished
    assert not town.evaluate(tick, minutes=2500).unfinished
    ledger = town.list_outcomes(tick)
    assert [minute for minute, _ in ledger] == list(range(1, 2501))
    assert [minute for minute, outcome in ledger if outcome == "fired"] == [2499]
    assert {outcome for _, outcome in ledger} == {"fired", "coalesced", "skipped_overlap"}


@pytest.mark.parametrize(
    ("policy", "late"), [({"policy": "skip"}, []), ({"policy": "catch_up", "max": 3}, [2496, 2497, 2498])]
)
def test_every_misfire_policy_holds_over_several_parts(town: ScheduleDriver, policy: dict[str, object], late: list[int]) -> None:
    tick = town.put_schedule(misfire=policy, overlap="allow")
    while town.evaluate(tick, minutes=2500).unfinished:
        pass
    assert [minute for minute, outcome in town.list_outcomes(tick) if outcome == "fired"] == [*late, 2499, 2500]
    assert len(town.list_outcomes(tick)) == 2500


def test_overlap_is_what_the_schedule_says(town: ScheduleDriver) -> None:
    expected = {
        "skip": [ExecutionState.QUEUED],
        "queue_one": [ExecutionState.QUEUED, ExecutionState.WAITING],
        "queue_all": [ExecutionState.QUEUED, ExecutionState.WAITING, ExecutionState.WAITING],
        "allow": [ExecutionState.QUEUED] * 3,
    }
    rows = {overlap: town.put_schedule(overlap, overlap=overlap) for overlap in expected}
    for minutes in (1, 2, 3):
        town.evaluate(*rows.values(), minutes=minutes)
    for overlap, row in rows.items():
        assert [each.state for each in town.list_executions() if each.schedule_id == row.id] == expected[overlap], overlap
        skipped = 3 - len(expected[overlap])
        assert [outcome for _, outcome in town.list_outcomes(row)] == ["fired"] * (3 - skipped) + ["skipped_overlap"] * skipped
    [first] = [each.id for each in town.list_executions() if each.schedule_id == rows["skip"].id]
    assert town.list_occurrences(rows["skip"])[1].reason == f"execution {first} had not ended"


def test_the_next_one_cancels_those_before_it_and_waits_for_their_end(town: ScheduleDriver) -> None:
    tick = town.put_schedule(overlap="cancel_running", jitter=3600)
    town.evaluate(tick, minutes=1)
    with town.database.write() as connection:
        connection.execute(sa.update(schema.executions).values(state="Running"))
    town.evaluate(tick, minutes=2)
    first, second = town.list_executions()
    assert (first.state, first.cancel_requested_by) == (ExecutionState.RUNNING, "schedule:tick")
    assert second.state is ExecutionState.WAITING
    with town.database.read() as connection:
        assert [row.execution_id for row in dependencies.list_parents(connection, second.id).items] == [first.id]
    town.evaluate(tick, minutes=3)
    second = town.list_executions()[1]
    assert (second.state, second.reason) == (
        ExecutionState.CANCELLED,
        f"the occurrence of {at_minute(3).isoformat()} takes its place",
    )


def test_a_disabled_or_missing_job_leaves_rows(town: ScheduleDriver) -> None:
    tick, other = town.put_schedule(), town.put_schedule("other", job="nobody")
    town.put_job(enabled=False)
    town.evaluate(tick, other)
    assert [row.reason for each in (tick, other) for row in town.list_occurrences(each)] == [
        "job send is disabled",
        "there is no job nobody",
    ]
    assert town.list_outcomes(tick) == town.list_outcomes(other) == [(1, "skipped_paused")]
    assert town.list_executions() == []


def test_a_schedule_that_is_not_enabled_is_not_due(town: ScheduleDriver) -> None:
    tick = town.put_schedule(enabled=False)
    assert town.evaluate(tick, minutes=3).count == 0
    assert town.list_outcomes(tick) == []
    assert town.get_schedule(tick).next_at == at_minute(4)


def test_after_its_last_run_one_row_says_so(town: ScheduleDriver) -> None:
    tick = town.put_schedule(max_runs=2, overlap="allow")
    town.evaluate(tick, minutes=1)
    assert town.get_schedule(tick).state is Standing.ACTIVE
    town.evaluate(tick, minutes=2)
    assert town.get_schedule(tick).state is Standing.EXHAUSTED
    for minutes in (3, 4, 50):
        town.evaluate(tick, minutes=minutes)
    assert town.list_outcomes(tick) == [(1, "fired"), (2, "fired"), (3, "exhausted")]
    after = town.get_schedule(tick)
    assert (after.state, after.next_at, after.runs) == (Standing.EXHAUSTED, None, 2)


def test_a_rule_that_comes_to_its_end(town: ScheduleDriver) -> None:
    once = town.put_schedule(rule={"kind": "once", "at": at_minute(1).isoformat()})
    town.evaluate(once)
    after = town.get_schedule(once)
    assert (after.state, after.next_at) == (Standing.EXHAUSTED, None)
    assert town.list_outcomes(once) == [(1, "fired")]


def test_calendars_are_asked_when_it_is_settled(town: ScheduleDriver) -> None:
    with town.database.write() as connection:
        spec = {"kind": "dates", "days": {"2026-03-02": "Quiet day"}}
        values = {"revision": 1, "owner": "api", "spec": spec, "created_at": NOW, "changed_at": NOW}
        connection.execute(schema.calendars.insert().values(name="quiet", **values))
    out, within = town.put_schedule("out", exclude=["quiet"]), town.put_schedule("within", require=["quiet"])
    town.evaluate(out, within)
    assert town.list_outcomes(out) == [(1, "skipped_calendar")]
    assert town.list_outcomes(within) == [(1, "fired")]
    assert town.list_occurrences(out)[0].reason == "within calendar quiet: Quiet day"


def test_who_comes_second_with_a_unique_key_leaves_a_row(town: ScheduleDriver) -> None:
    town.put_job(policies={"unique": {"key": None, "until": "finished", "for": None, "on_conflict": "return"}})
    tick = town.put_schedule(overlap="allow", misfire={"policy": "catch_up"})
    town.evaluate(tick, minutes=2)
    [execution] = town.list_executions()
    assert town.list_outcomes(tick) == [(1, "fired"), (2, "skipped_duplicate")]
    assert town.list_occurrences(tick)[1].reason == f"execution {execution.id} stands for it"


def test_what_is_spread_is_due_later_and_always_by_as_much(town: ScheduleDriver) -> None:
    rows = [town.put_schedule(f"tick{number}", spread=600, overlap="allow") for number in range(5)]
    town.evaluate(*rows, minutes=1)
    town.evaluate(*rows, minutes=2)
    found: dict[str | None, list[float]] = {}
    for execution in town.list_executions():
        assert execution.state is ExecutionState.SCHEDULED
        assert execution.scheduled_for is not None
        share = (execution.due_at - execution.scheduled_for).total_seconds()
        found.setdefault(execution.schedule_id, []).append(share)
    assert all(first == second and 0 <= first < 600 for first, second in found.values())
    assert len({shares[0] for shares in found.values()}) == 5


def test_parameters_that_the_task_refuses_fail_where_everybody_looks(town: ScheduleDriver) -> None:
    town.put_job("send", Parameter("to", "string"))
    tick = town.put_schedule(parameters={"to": 5}, pause_after_failures=2)
    town.evaluate(tick)
    [execution] = town.list_executions()
    assert execution.state is ExecutionState.FAILED
    assert execution.error is not None
    assert execution.error["type"] == "InvalidParameters"
    assert (town.get_schedule(tick).failures, town.get_schedule(tick).paused_at) == (1, None)
    town.evaluate(tick, minutes=2)
    assert town.get_schedule(tick).paused_at == at_minute(2)


def test_one_that_cannot_be_read_is_named_once_and_stops_nobody(town: ScheduleDriver, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = town.put_schedule("bad"), town.put_schedule("good")
    with town.database.write() as connection:
        table = schema.job_schedules
        connection.execute(sa.update(table).where(table.c.id == bad.id).values(spec={"rule": "whenever"}))
    with caplog.at_level(logging.ERROR):
        assert town.evaluate(bad, good).count == 1
        assert town.evaluate(bad, good, minutes=2).count == 0
    assert town.list_outcomes(bad) == []
    assert [minute for minute, _ in town.list_outcomes(good)] == [1, 2]


def test_somebody_fires_it_by_hand(town: ScheduleDriver) -> None:
    tick = town.put_schedule()
    with town.database.write() as connection:
        assert firing.fire_now(connection, tick, at_minute(0.5), "me").outcome is OccurrenceOutcome.FIRED
        assert firing.fire_now(connection, tick, at_minute(0.6), "me").outcome is OccurrenceOutcome.SKIPPED_OVERLAP
        assert firing.fire_now(connection, tick, at_minute(0.7), "me", OverlapPolicy.ALLOW).outcome is OccurrenceOutcome.FIRED
    first = town.list_executions()[0]
    assert [row.reason for row in town.list_occurrences(tick)] == [
        "fired by hand by me",
        f"execution {first.id} had not ended",
        "fired by hand by me",
    ]
    assert (town.get_schedule(tick).next_at, town.get_schedule(tick).runs) == (at_minute(1), 2)
    town.put_job(enabled=False)
    with town.database.write() as connection, pytest.raises(JobDisabled):
        firing.fire_now(connection, tick, at_minute(0.8), "me")


def test_what_runs_at_start_has_an_occurrence_then(town: ScheduleDriver) -> None:
    eager, lazy = town.put_schedule("eager", run_at_start=True), town.put_schedule("lazy")
    with town.database.write() as connection:
        assert settling.list_run_at_start(connection) == [eager.id]
        assert firing.fire_at_start(connection, [eager.id, lazy.id], at_minute(0.5), "the relay was started") == 1
    assert town.list_outcomes(eager) == [(0.5, "fired")]
    assert town.list_outcomes(lazy) == []


def test_what_runs_at_start_keeps_to_the_bounds_of_its_schedule(town: ScheduleDriver) -> None:
    rows = [
        town.put_schedule("early", run_at_start=True, start=at_minute(1).isoformat()),
        town.put_schedule("late", run_at_start=True, end=at_minute(0.5).isoformat()),
        town.put_schedule("new", run_at_start=True, initial_delay=31),
        town.put_schedule("never", run_at_start=True, rule={"kind": "once", "at": at_minute(-1).isoformat()}),
        town.put_schedule("off", run_at_start=True, enabled=False),
    ]
    once = town.put_schedule("once", run_at_start=True, max_runs=1)
    ids = [row.id for row in (*rows, once)]
    with town.database.write() as connection:
        assert firing.fire_at_start(connection, ids, at_minute(0.5), "it was created") == 1
        assert firing.fire_at_start(connection, ids, at_minute(0.51), "the relay was started") == 0
    assert [town.list_outcomes(row) for row in rows] == [[]] * 5
    assert town.list_outcomes(once) == [(0.5, "fired")]
    with town.database.write() as connection:
        assert firing.fire_at_start(connection, [row.id for row in rows], at_minute(1), "the relay was started") == 2
    assert [town.list_outcomes(row) for row in rows[:3]] == [[(1, "fired")], [], [(1, "fired")]]


def test_what_runs_at_start_is_held_up_by_a_pause(town: ScheduleDriver) -> None:
    tick = town.put_schedule(run_at_start=True)
    with town.database.write() as connection:
        schedules.update_pause(connection, tick.id, SchedulePauseRecord(at_minute(0.2), "ann"))
        assert firing.fire_at_start(connection, [tick.id], at_minute(0.5), "the relay was started") == 0
    assert town.list_outcomes(tick) == [(0.5, "skipped_paused")]


def test_a_change_settles_first_what_is_due(town: ScheduleDriver) -> None:
    tick = town.put_schedule()
    with town.database.write() as connection:
        row = firing.evaluate_now(connection, tick, at_minute(2.5))
    assert (row.settled_until, row.next_at) == (at_minute(2), at_minute(3))
    assert [minute for minute, _ in town.list_outcomes(tick)] == [1, 2]


def test_due_schedules_are_found_in_sql(town: ScheduleDriver) -> None:
    first, second = town.put_schedule("first"), town.put_schedule("second", now=at_minute(1))
    town.put_schedule("off", enabled=False)
    with town.database.read() as connection:
        assert settling.list_due(connection, at_minute(1), 10) == [(first.id, at_minute(1))]
        assert settling.list_due(connection, at_minute(2), 10) == [(first.id, at_minute(1)), (second.id, at_minute(2))]
        assert settling.list_due(connection, at_minute(2), 1) == [(first.id, at_minute(1))]
        assert settling.get_next_due(connection, NOW) == at_minute(1)
        [one] = settling.list_upcoming(connection, (NOW, ""), at_minute(5), 1)
        assert (one.id, one.next_at) == (first.id, at_minute(1))
        assert [each.id for each in settling.list_upcoming(connection, (one.next_at, one.id), at_minute(5), 9)] == [second.id]
        assert settling.list_upcoming(connection, (NOW, ""), at_minute(0.5), 9) == []
        assert settling.get_next_due(connection, at_minute(1)) == at_minute(2)
        assert settling.get_next_due(connection, at_minute(2)) is None
