"""Synchronization of declared schedules and calendars with SQL."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker import business_day, calendar, daily, every, schedule
from jobworker.clock import ManualClock
from jobworker.declare.declarations import Declarations, collect_declarations
from jobworker.domain.errors import Conflict, ScheduleExists, ScheduleOwnedElsewhere
from jobworker.domain.schedules.schedule import ScheduleOwner, ScheduleState
from jobworker.services.calendars import calendar_changes
from jobworker.services.jobs import task_catalog
from jobworker.services.schedules import backfill, occurrences, sync
from jobworker.services.schedules import schedules as editing
from jobworker.services.schedules.sync import SyncChange, SyncOutcome
from jobworker.store import audit, jobs
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules, schedule_revisions
from jobworker.store.tables.schedules import occurrences as occurrences_table
from tests.conformance.execution_driver import ExecutionDriver
from tests.conformance.factories import NOW

DAY = dt.timedelta(days=1)


class ScheduleSyncDriver:
    """Database with jobs, and code that declares schedules for them."""

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
        with collect_declarations() as declarations:
            for name, fields in self.fields.items():
                schedule(name, **fields)
            for name, fields in self.calendars.items():
                calendar(name, **fields)
        return declarations

    def apply(self) -> list[SyncChange]:
        return sync.apply_declarations(self.database, self.clock, self.declarations, "code:v1")

    def plan(self) -> list[SyncChange]:
        return sync.plan_changes(self.database, self.clock, self.declarations)

    def get_schedule(self, name: str) -> ScheduleRow:
        with self.database.read() as connection:
            row = schedule_rows.get_by_name(connection, name)
        assert row is not None
        return row

    def list_outcomes(self, name: str) -> list[tuple[dt.datetime, str]]:
        table = occurrences_table
        query = sa.select(table.c.scheduled_for, table.c.outcome).where(
            table.c.schedule_id == self.get_schedule(name).id
        )
        with self.database.read() as connection:
            return [
                (row.scheduled_for, row.outcome) for row in connection.execute(query.order_by(table.c.scheduled_for))
            ]


@pytest.fixture
def driver(database: Database) -> ScheduleSyncDriver:
    return ScheduleSyncDriver(database)


def list_steps(changes: list[SyncChange]) -> list[tuple[SyncOutcome, str]]:
    return [(change.step, change.name) for change in changes]


def test_new_declaration_creates_schedule(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly", zone="Europe/Berlin", parameters={"days": 9})
    [change] = driver.apply()
    assert (change.step, change.kind, change.name, change.reason) == (
        SyncOutcome.CREATED,
        "schedule",
        "nightly",
        None,
    )
    assert change.place is not None
    assert change.place.startswith("tests/conformance/test_schedule_sync.py:")
    # 13:00 in Berlin is 12:00 in UTC, which is the current time.
    assert list(change.next) == [NOW + n * DAY for n in (1, 2, 3)]
    row = driver.get_schedule("nightly")
    assert (row.owner, row.state, row.job, row.revision) == (ScheduleOwner.CODE, ScheduleState.ACTIVE, "load", 1)
    assert (row.next_at, row.schedule.parameters) == (NOW + DAY, {"days": 9})
    with driver.database.read() as connection:
        assert [entry.actor for entry in audit.list_by_subject(connection, "nightly")] == ["code:v1"]


def test_unchanged_declaration_changes_nothing(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    driver.clock.advance(1)
    before = driver.get_schedule("nightly")
    assert driver.apply() == []
    assert driver.get_schedule("nightly") == before


def test_changed_declaration_settles_earlier_occurrences_first(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    due = NOW + dt.timedelta(hours=1)
    driver.clock.advance(3600.0 + 10)
    driver.declare("nightly", rule=daily("14:00"), priority=7)
    [change] = driver.apply()
    assert (change.step, change.name) == (SyncOutcome.CHANGED, "nightly")
    assert [(difference.pointer, difference.before, difference.now) for difference in change.differences] == [
        ("/priority", None, 7),
        ("/rule/time", "13:00", "14:00"),
    ]
    assert driver.list_outcomes("nightly") == [(due, "fired")]
    row = driver.get_schedule("nightly")
    assert (row.revision, row.next_at) == (2, due + dt.timedelta(hours=1))


def test_removed_declaration_retires_schedule_and_restores_it(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    driver.clock.advance(3600.0 + 10)
    driver.fields.clear()
    assert list_steps(driver.apply()) == [(SyncOutcome.RETIRED, "nightly")]
    retired = driver.get_schedule("nightly")
    assert (retired.state, retired.next_at) == (ScheduleState.RETIRED, None)
    assert driver.list_outcomes("nightly") == [(NOW + dt.timedelta(hours=1), "fired")], (
        "it was due while it was declared"
    )
    assert driver.apply() == []

    driver.clock.advance(3 * 86400)
    driver.declare("nightly")
    [change] = driver.apply()
    assert (change.step, change.differences) == (SyncOutcome.RESTORED, [])
    again = driver.get_schedule("nightly")
    assert (again.id, again.state, again.revision) == (retired.id, ScheduleState.ACTIVE, 2)
    assert again.next_at == NOW + dt.timedelta(days=4, hours=1)
    assert len(driver.list_outcomes("nightly")) == 1, "what was due while it was retired stays as it is"


def test_retired_schedule_stays_retired_until_deleted(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    driver.fields.clear()
    driver.apply()
    with pytest.raises(Conflict, match="retired, code declares it no more: it cannot be fired; submit job load"):
        occurrences.fire(driver.database, driver.clock, "nightly", None, "ann")
    assert driver.get_schedule("nightly").state is ScheduleState.RETIRED
    again = {"name": "nightly", "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
    with pytest.raises(ScheduleExists, match="it is retired because code no longer declares it; DELETE it first"):
        editing.create(driver.database, driver.clock, again, "ann")
    with pytest.raises(ScheduleOwnedElsewhere, match="DELETE it, then create it anew"):
        editing.change(driver.database, driver.clock, "nightly", again, None, "ann")

    driver.clock.advance(2 * 86400)
    request = backfill.BackfillRequest(NOW - DAY, NOW)
    assert backfill.backfill_schedule(driver.database, driver.clock, "nightly", request, "ann").items, (
        "its past can still be had"
    )
    assert driver.get_schedule("nightly").state is ScheduleState.RETIRED

    editing.remove(driver.database, driver.clock, "nightly", None, "ann")
    created = editing.create(driver.database, driver.clock, again, "ann")
    assert (created.row.owner, created.row.state) == (ScheduleOwner.API, ScheduleState.ACTIVE)


def test_existing_schedule_name_conflict_names_its_owner(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    driver.executions.define_job("report", schedule={"kind": "daily", "time": "02:00"})
    for name, owner in (("nightly", "declared in code"), ("report", "part of the definition of job report")):
        fields = {"name": name, "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
        with pytest.raises(ScheduleExists, match=owner):
            editing.create(driver.database, driver.clock, fields, "ann")


def test_schedule_that_never_fires_is_created_with_a_warning(driver: ScheduleSyncDriver) -> None:
    driver.calendars["summer"] = {"kind": "dates", "days": ["2026-06-01", "2026-06-03"]}
    driver.calendars["past"] = {"kind": "dates", "days": ["2020-06-01"]}
    driver.declare("never", end="2020-01-01T00:00:00Z")
    driver.declare("forbidden", require=["past"])
    driver.declare("summer", require=["summer"], zone="Europe/Berlin")
    changes = {change.name: change for change in driver.apply() if change.kind == "schedule"}
    assert {change.step for change in changes.values()} == {SyncOutcome.CREATED}
    for name, reason in (("never", "it has ended already"), ("forbidden", "its calendars (past) allow no time")):
        assert changes[name].next == []
        [warning] = changes[name].warnings
        assert reason in warning
    assert [f"{moment:%m-%dT%H:%M%z}" for moment in changes["summer"].next] == ["06-01T13:00+0200", "06-03T13:00+0200"]
    assert changes["summer"].warnings == []


def test_schedules_of_other_owners_are_left_unchanged(driver: ScheduleSyncDriver) -> None:
    theirs = {"name": "theirs", "job": "load", "rule": {"kind": "daily", "time": "01:00"}}
    editing.create(driver.database, driver.clock, theirs, "ann")
    driver.executions.define_job("report", schedule={"kind": "daily", "time": "02:00"})
    for name in ("theirs", "report", "mine"):
        driver.declare(name)
    before = driver.get_schedule("theirs"), driver.get_schedule("report")
    changes = {change.name: change for change in driver.apply()}
    assert {name: change.step for name, change in changes.items()} == {
        "theirs": SyncOutcome.REFUSED,
        "report": SyncOutcome.REFUSED,
        "mine": SyncOutcome.CREATED,
    }
    assert "made over HTTP" in (changes["theirs"].reason or "")
    assert "definition of job report" in (changes["report"].reason or "")
    assert (driver.get_schedule("theirs"), driver.get_schedule("report")) == before


def test_rejected_declaration_is_applied_once_it_is_valid(driver: ScheduleSyncDriver) -> None:
    driver.declare("early", job="later")
    driver.declare("wrong", job="strict", parameters={"rows": "many"})
    driver.declare("mine")
    first = {change.name: change for change in driver.apply()}
    assert "/job: there is no job 'later'" in (first["early"].reason or "")
    assert "/parameters/rows: " in (first["wrong"].reason or "")
    assert first["mine"].step is SyncOutcome.CREATED
    driver.executions.define_job("later")
    assert list_steps(driver.apply()) == [(SyncOutcome.CREATED, "early"), (SyncOutcome.REFUSED, "wrong")]


def test_invalid_change_leaves_schedule_unchanged(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    before = driver.get_schedule("nightly")
    driver.declare("nightly", job="nobody")
    assert list_steps(driver.apply()) == [(SyncOutcome.REFUSED, "nightly")]
    assert driver.get_schedule("nightly") == before


def test_plan_returns_changes_and_writes_nothing(driver: ScheduleSyncDriver) -> None:
    for name in ("kept", "changed", "gone"):
        driver.declare(name)
    driver.apply()
    driver.clock.advance(7200)
    del driver.fields["gone"]
    driver.declare("changed", rule=every(60))
    driver.declare("new")
    driver.declare("wrong", job="nobody")

    def all_rows() -> dict[str, list[Any]]:
        tables = (job_schedules, occurrences_table, core.executions, core.audit, schedule_revisions)
        with driver.database.read() as connection:
            return {table.name: sorted(map(str, connection.execute(sa.select(table)))) for table in tables}

    before = all_rows()
    planned = driver.plan()
    assert list_steps(planned) == [
        (SyncOutcome.CHANGED, "changed"),
        (SyncOutcome.CREATED, "new"),
        (SyncOutcome.REFUSED, "wrong"),
        (SyncOutcome.RETIRED, "gone"),
    ]
    assert all_rows() == before
    assert driver.apply() == planned
    assert driver.plan() == [planned[2]]


def test_calendars_are_created_before_schedules_and_removed_after(driver: ScheduleSyncDriver) -> None:
    driver.declare("month-end", rule=business_day(-1, "18:00"), calendar="office")
    assert list_steps(driver.apply()) == [(SyncOutcome.REFUSED, "month-end")]
    driver.calendars["office"] = {"closed": ["2026-03-31"]}
    first = driver.apply()
    assert list_steps(first) == [(SyncOutcome.CREATED, "office"), (SyncOutcome.CREATED, "month-end")]
    assert driver.get_schedule("month-end").next_at == dt.datetime(2026, 3, 30, 18, tzinfo=dt.UTC)

    driver.calendars["office"] = {"closed": {"2026-03-31": "moving", "2026-03-30": "moving"}}
    [changed] = driver.apply()
    assert (changed.step, changed.kind, changed.name) == (SyncOutcome.CHANGED, "calendar", "office")
    assert [difference.pointer for difference in changed.differences] == ["/closed/2026-03-30", "/closed/2026-03-31"]
    assert driver.get_schedule("month-end").next_at == dt.datetime(2026, 3, 27, 18, tzinfo=dt.UTC)
    assert driver.apply() == []

    del driver.calendars["office"]
    [refused] = driver.apply()
    assert (refused.step, refused.kind) == (SyncOutcome.REFUSED, "calendar")
    assert "schedule month-end" in (refused.reason or "")
    driver.fields.clear()
    assert list_steps(driver.apply()) == [(SyncOutcome.RETIRED, "month-end"), (SyncOutcome.REMOVED, "office")]
    assert driver.apply() == []


def test_calendars_of_other_owners_are_left_unchanged(driver: ScheduleSyncDriver) -> None:
    calendar_changes.create(driver.database, driver.clock, {"name": "office", "kind": "business"}, "ann")
    driver.calendars["office"] = {"country": "DE"}
    driver.declare("month-end", rule=business_day(-1, "18:00"), calendar="office")
    refused, created = driver.apply()
    assert (refused.step, refused.name) == (SyncOutcome.REFUSED, "office")
    assert "made over HTTP" in (refused.reason or "")
    assert created.step is SyncOutcome.CREATED, "the calendar that is there will do"
    driver.calendars.clear()
    assert driver.apply() == []


def test_job_is_registered_without_schedule_whose_name_exists(driver: ScheduleSyncDriver) -> None:
    driver.declare("nightly")
    driver.apply()
    rule = {"kind": "daily", "time": "01:00"}
    options = {"queue": "default", "priority": 5, "on_worker_lost": "retry", "schedule": rule}
    task = {"name": "nightly", "description": "", "parameters": [], "options": options}
    task_catalog.register_tasks(driver.database, driver.clock, [task, {**task, "name": "weekly"}], "v1")
    with driver.database.read() as connection:
        job_rows = jobs.get_many(connection, ["nightly", "weekly"])
    assert job_rows["nightly"].definition.schedule is None
    assert job_rows["weekly"].definition.schedule is not None
    assert (driver.get_schedule("nightly").owner, driver.get_schedule("weekly").owner) == (
        ScheduleOwner.CODE,
        ScheduleOwner.JOB,
    )
