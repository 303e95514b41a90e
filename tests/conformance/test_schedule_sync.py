"""What code declares becomes so in SQL."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker import business_day, calendar, daily, every, schedule
from jobworker.clock import ManualClock
from jobworker.declare.schedules import Declarations, collect_declarations
from jobworker.domain.errors import Conflict, ScheduleExists, ScheduleOwnedElsewhere
from jobworker.domain.schedule import ScheduleOwner, ScheduleState
from jobworker.services import backfill, calendar_editing, catalogue, occurrences, schedule_sync
from jobworker.services import schedules as editing
from jobworker.services.schedule_sync import SyncChange, SyncOutcome
from jobworker.store import audit, jobs, schedules, schema
from jobworker.store.database import Database
from jobworker.store.schedules import ScheduleRow
from tests.conformance.household import ExecutionDriver
from tests.conformance.worlds import NOW

DAY = dt.timedelta(days=1)


class ScheduleSyncDriver:
    """A database with jobs, and the code that declares schedules for them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.executions = ExecutionDriver(database)
        self.clock: ManualClock = self.executions.clock
        self.fields: dict[str, dict[str, Any]] = {}
        self.calendars: dict[str, dict[str, Any]] = {}

    def declare(self, name: str, **fields: Any) -> None:
        self.fields[name] = {"job": "load", "rule": daily("13:00"), **fields}

    @property
    def declarations(self) -> Declarations:
        with collect_declarations() as found:
            for name, fields in self.fields.items():
                schedule(name, **fields)
            for name, fields in self.calendars.items():
                calendar(name, **fields)
        return found

    def apply(self) -> list[SyncChange]:
        return schedule_sync.apply_declarations(self.database, self.clock, self.declarations, "code:v1")

    def plan(self) -> list[SyncChange]:
        return schedule_sync.plan_changes(self.database, self.clock, self.declarations)

    def get_schedule(self, name: str) -> ScheduleRow:
        with self.database.read() as connection:
            row = schedules.get_by_name(connection, name)
        assert row is not None
        return row

    def list_outcomes(self, name: str) -> list[tuple[dt.datetime, str]]:
        table = schema.occurrences
        query = sa.select(table.c.scheduled_for, table.c.outcome).where(table.c.schedule_id == self.get_schedule(name).id)
        with self.database.read() as connection:
            return [
                (row.scheduled_for, row.outcome) for row in connection.execute(query.order_by(table.c.scheduled_for))
            ]


@pytest.fixture
def house(database: Database) -> ScheduleSyncDriver:
    return ScheduleSyncDriver(database)


def list_steps(changes: list[SyncChange]) -> list[tuple[SyncOutcome, str]]:
    return [(change.step, change.name) for change in changes]


def test_what_is_new_is_created(house: ScheduleSyncDriver) -> None:
    house.declare("nightly", zone="Europe/Berlin", parameters={"days": 9})
    [change] = house.apply()
    assert (change.step, change.kind, change.name, change.reason) == (SyncOutcome.CREATED, "schedule", "nightly", None)
    assert change.place is not None
    assert change.place.startswith("tests/conformance/test_schedule_sync.py:")
    assert list(change.next) == [NOW + n * DAY for n in (1, 2, 3)]  # 13:00 in Berlin is 12:00, and that is now.
    row = house.get_schedule("nightly")
    assert (row.owner, row.state, row.job, row.revision) == (ScheduleOwner.CODE, ScheduleState.ACTIVE, "load", 1)
    assert (row.next_at, row.schedule.parameters) == (NOW + DAY, {"days": 9})
    with house.database.read() as connection:
        assert [entry.actor for entry in audit.list_by_subject(connection, "nightly")] == ["code:v1"]


def test_what_is_so_already_is_left_alone(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    house.clock.advance(1)
    before = house.get_schedule("nightly")
    assert house.apply() == []
    assert house.get_schedule("nightly") == before


def test_a_change_settles_what_was_due_before(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    due = NOW + dt.timedelta(hours=1)
    house.clock.advance(3600.0 + 10)
    house.declare("nightly", rule=daily("14:00"), priority=7)
    [change] = house.apply()
    assert (change.step, change.name) == (SyncOutcome.CHANGED, "nightly")
    assert [(each.pointer, each.before, each.now) for each in change.differences] == [
        ("/priority", None, 7),
        ("/rule/time", "13:00", "14:00"),
    ]
    assert house.list_outcomes("nightly") == [(due, "fired")]
    row = house.get_schedule("nightly")
    assert (row.revision, row.next_at) == (2, due + dt.timedelta(hours=1))


def test_what_is_gone_from_code_is_retired_and_comes_back(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    house.clock.advance(3600.0 + 10)
    house.fields.clear()
    assert list_steps(house.apply()) == [(SyncOutcome.RETIRED, "nightly")]
    retired = house.get_schedule("nightly")
    assert (retired.state, retired.next_at) == (ScheduleState.RETIRED, None)
    assert house.list_outcomes("nightly") == [(NOW + dt.timedelta(hours=1), "fired")], "it was due while it was declared"
    assert house.apply() == []

    house.clock.advance(3 * 86400)
    house.declare("nightly")
    [change] = house.apply()
    assert (change.step, change.differences) == (SyncOutcome.RESTORED, [])
    again = house.get_schedule("nightly")
    assert (again.id, again.state, again.revision) == (retired.id, ScheduleState.ACTIVE, 2)
    assert again.next_at == NOW + dt.timedelta(days=4, hours=1)
    assert len(house.list_outcomes("nightly")) == 1, "what was due while it was retired stays as it is"


def test_what_is_retired_stays_so_until_it_is_deleted(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    house.fields.clear()
    house.apply()
    with pytest.raises(Conflict, match="retired, code declares it no more: it cannot be fired; submit job load"):
        occurrences.fire(house.database, house.clock, "nightly", None, "ann")
    assert house.get_schedule("nightly").state is ScheduleState.RETIRED
    again = {"name": "nightly", "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
    with pytest.raises(ScheduleExists, match="it is retired, code declares it no more: DELETE it first"):
        editing.create(house.database, house.clock, again, "ann")
    with pytest.raises(ScheduleOwnedElsewhere, match="DELETE it, then create it anew"):
        editing.change(house.database, house.clock, "nightly", again, None, "ann")

    house.clock.advance(2 * 86400)
    asked = backfill.BackfillRequest(NOW - DAY, NOW)
    assert backfill.backfill_schedule(house.database, house.clock, "nightly", asked, "ann").items, "its past can still be had"
    assert house.get_schedule("nightly").state is ScheduleState.RETIRED

    editing.remove(house.database, house.clock, "nightly", None, "ann")
    made = editing.create(house.database, house.clock, again, "ann")
    assert (made.row.owner, made.row.state) == (ScheduleOwner.API, ScheduleState.ACTIVE)


def test_a_name_that_is_taken_is_told_with_where_it_is_changed(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    house.executions.define_job("report", schedule={"kind": "daily", "time": "02:00"})
    for name, told in (("nightly", "declared in code"), ("report", "part of the definition of job report")):
        wanted = {"name": name, "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
        with pytest.raises(ScheduleExists, match=told):
            editing.create(house.database, house.clock, wanted, "ann")


def test_what_never_fires_is_accepted_and_told(house: ScheduleSyncDriver) -> None:
    house.calendars["summer"] = {"kind": "dates", "days": ["2026-06-01", "2026-06-03"]}
    house.calendars["past"] = {"kind": "dates", "days": ["2020-06-01"]}
    house.declare("never", end="2020-01-01T00:00:00Z")
    house.declare("forbidden", require=["past"])
    house.declare("summer", require=["summer"], zone="Europe/Berlin")
    changes = {change.name: change for change in house.apply() if change.kind == "schedule"}
    assert {change.step for change in changes.values()} == {SyncOutcome.CREATED}
    for name, told in (("never", "it has ended already"), ("forbidden", "its calendars (past) allow no time")):
        assert changes[name].next == []
        [warning] = changes[name].warnings
        assert told in warning
    assert [f"{moment:%m-%dT%H:%M%z}" for moment in changes["summer"].next] == ["06-01T13:00+0200", "06-03T13:00+0200"]
    assert changes["summer"].warnings == []


def test_what_others_own_is_left_alone(house: ScheduleSyncDriver) -> None:
    theirs = {"name": "theirs", "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
    editing.create(house.database, house.clock, theirs, "ann")
    house.executions.define_job("report", schedule={"kind": "daily", "time": "02:00"})
    for name in ("theirs", "report", "mine"):
        house.declare(name)
    before = house.get_schedule("theirs"), house.get_schedule("report")
    changes = {change.name: change for change in house.apply()}
    assert {name: change.step for name, change in changes.items()} == {
        "theirs": SyncOutcome.REFUSED,
        "report": SyncOutcome.REFUSED,
        "mine": SyncOutcome.CREATED,
    }
    assert "made over HTTP" in (changes["theirs"].reason or "")
    assert "definition of job report" in (changes["report"].reason or "")
    assert (house.get_schedule("theirs"), house.get_schedule("report")) == before


def test_what_cannot_run_waits_until_it_can(house: ScheduleSyncDriver) -> None:
    house.declare("early", job="later")
    house.declare("wrong", job="strict", parameters={"rows": "many"})
    house.declare("mine")
    first = {change.name: change for change in house.apply()}
    assert "/job: there is no job 'later'" in (first["early"].reason or "")
    assert "/parameters/rows: " in (first["wrong"].reason or "")
    assert first["mine"].step is SyncOutcome.CREATED
    house.executions.define_job("later")
    assert list_steps(house.apply()) == [(SyncOutcome.CREATED, "early"), (SyncOutcome.REFUSED, "wrong")]


def test_a_change_that_cannot_be_leaves_what_is_there(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    before = house.get_schedule("nightly")
    house.declare("nightly", job="nobody")
    assert list_steps(house.apply()) == [(SyncOutcome.REFUSED, "nightly")]
    assert house.get_schedule("nightly") == before


def test_a_plan_tells_what_would_be_and_changes_nothing(house: ScheduleSyncDriver) -> None:
    for name in ("kept", "changed", "gone"):
        house.declare(name)
    house.apply()
    house.clock.advance(7200)
    del house.fields["gone"]
    house.declare("changed", rule=every(60))
    house.declare("new")
    house.declare("wrong", job="nobody")

    def all_rows() -> dict[str, list[Any]]:
        tables = (schema.job_schedules, schema.occurrences, schema.executions, schema.audit, schema.schedule_revisions)
        with house.database.read() as connection:
            return {table.name: sorted(map(str, connection.execute(sa.select(table)))) for table in tables}

    before = all_rows()
    planned = house.plan()
    assert list_steps(planned) == [
        (SyncOutcome.CHANGED, "changed"),
        (SyncOutcome.CREATED, "new"),
        (SyncOutcome.REFUSED, "wrong"),
        (SyncOutcome.RETIRED, "gone"),
    ]
    assert all_rows() == before
    assert house.apply() == planned
    assert house.plan() == [planned[2]]


def test_calendars_come_before_the_schedules_that_name_them_and_go_after(house: ScheduleSyncDriver) -> None:
    house.declare("month-end", rule=business_day(-1, "18:00"), calendar="office")
    assert list_steps(house.apply()) == [(SyncOutcome.REFUSED, "month-end")]
    house.calendars["office"] = {"closed": ["2026-03-31"]}
    first = house.apply()
    assert list_steps(first) == [(SyncOutcome.CREATED, "office"), (SyncOutcome.CREATED, "month-end")]
    assert house.get_schedule("month-end").next_at == dt.datetime(2026, 3, 30, 18, tzinfo=dt.UTC)

    house.calendars["office"] = {"closed": {"2026-03-31": "moving", "2026-03-30": "moving"}}
    [changed] = house.apply()
    assert (changed.step, changed.kind, changed.name) == (SyncOutcome.CHANGED, "calendar", "office")
    assert [each.pointer for each in changed.differences] == ["/closed/2026-03-30", "/closed/2026-03-31"]
    assert house.get_schedule("month-end").next_at == dt.datetime(2026, 3, 27, 18, tzinfo=dt.UTC)
    assert house.apply() == []

    del house.calendars["office"]
    [refused] = house.apply()
    assert (refused.step, refused.kind) == (SyncOutcome.REFUSED, "calendar")
    assert "schedule month-end" in (refused.reason or "")
    house.fields.clear()
    assert list_steps(house.apply()) == [(SyncOutcome.RETIRED, "month-end"), (SyncOutcome.REMOVED, "office")]
    assert house.apply() == []


def test_calendars_of_others_are_left_alone(house: ScheduleSyncDriver) -> None:
    calendar_editing.create(house.database, house.clock, {"name": "office", "kind": "business"}, "ann")
    house.calendars["office"] = {"country": "DE"}
    house.declare("month-end", rule=business_day(-1, "18:00"), calendar="office")
    refused, created = house.apply()
    assert (refused.step, refused.name) == (SyncOutcome.REFUSED, "office")
    assert "made over HTTP" in (refused.reason or "")
    assert created.step is SyncOutcome.CREATED, "the calendar that is there will do"
    house.calendars.clear()
    assert house.apply() == []


def test_a_job_whose_schedule_has_a_name_that_is_taken_is_learnt_without_it(house: ScheduleSyncDriver) -> None:
    house.declare("nightly")
    house.apply()
    rule = {"kind": "daily", "time": "01:00"}
    options = {"queue": "default", "priority": 5, "on_worker_lost": "retry", "schedule": rule}
    task = {"name": "nightly", "description": "", "parameters": [], "options": options}
    catalogue.register_tasks(house.database, house.clock, [task, {**task, "name": "weekly"}], "v1")
    with house.database.read() as connection:
        found = jobs.get_many(connection, ["nightly", "weekly"])
    assert found["nightly"].definition.schedule is None
    assert found["weekly"].definition.schedule is not None
    assert (house.get_schedule("nightly").owner, house.get_schedule("weekly").owner) == (ScheduleOwner.CODE, ScheduleOwner.JOB)
