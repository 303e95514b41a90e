"""Outages of ten hours without evaluation, over nights when clocks change, under each policy.

Time is virtual; the occurrence rows must equal those that a simple model predicts (`_predict_outcomes`).
"""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.services.schedules import evaluator, pauses
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.schedules import due_schedules, schedule_rows
from jobworker.store.tables.schedules import job_schedules
from tests.conformance.factories import make_task
from tests.schedule_oracle import NO_DISCREPANCIES, OccurrenceKey, compare_database, list_nominal_times

HOUR = dt.timedelta(hours=1)

#: Lag between a due time, a whole second, and its evaluation while the relay runs.
EVALUATION_LAG = dt.timedelta(milliseconds=300)

#: Nights in which the clocks of a zone change, and the hour (UTC) at which the outage begins.
CLOCK_CHANGE_NIGHTS = [
    ("Europe/Berlin", dt.datetime(2026, 3, 28, 20, tzinfo=dt.UTC)),
    ("Europe/Berlin", dt.datetime(2026, 10, 24, 20, tzinfo=dt.UTC)),
    ("America/New_York", dt.datetime(2026, 11, 1, 1, tzinfo=dt.UTC)),
    ("Australia/Lord_Howe", dt.datetime(2026, 10, 3, 10, tzinfo=dt.UTC)),
]

MISFIRE_POLICIES: list[dict[str, Any]] = [
    {"policy": "fire_once"},
    {"policy": "fire_once", "grace": 1800},
    {"policy": "skip"},
    {"policy": "skip", "grace": 3600},
    {"policy": "catch_up"},
    {"policy": "catch_up", "max": 3, "grace": 600},
    {"policy": "catch_up", "max": 1000},
]

RULES: list[dict[str, Any]] = [
    {"rule": {"kind": "interval", "every": 2520, "anchor": "2026-01-01T00:00:07+00:00"}},
    {"rule": {"kind": "cron", "expression": "*/15 * * * *"}},
    {"rule": {"kind": "cron", "expression": "0 1,2,3 * * *"}},
    {"rule": {"kind": "daily", "time": "02:15"}},
    {"rule": {"kind": "daily", "time": "01:30"}, "dst": {"gap": "skip", "fold": "both"}},
    {"rule": {"kind": "weekly", "days": ["sunday"], "time": "02:30"}, "dst": {"gap": "skip", "fold": "second"}},
    {"rule": {"kind": "monthly", "day": 29, "time": "02:59"}},
]


def make_frequent_schedule(outage: dt.datetime) -> dict[str, Any]:
    """Return a schedule so frequent that an outage is evaluated in several parts; it is active shortly around it."""
    start, end = outage - HOUR / 20, outage + 10 * HOUR + HOUR / 20
    return {"rule": {"kind": "interval", "every": 30}, "start": start.isoformat(), "end": end.isoformat()}


class OutageSimulation:
    """Schedules, and a relay that evaluates them except during an outage. Its work takes no time."""

    def __init__(self, database: Database, begin: dt.datetime, outage: dt.datetime) -> None:
        self.database = database
        self.now = self.begin = begin
        self.outage = outage, outage + 10 * HOUR + dt.timedelta(seconds=1)
        self.specs: dict[str, dict[str, Any]] = {}
        self.paused: tuple[dt.datetime, dt.datetime] | None = None
        with database.write() as connection:
            tasks.upsert(connection, make_task())
            jobs.upsert(connection, JobDefinition("send", task="tasks.mail.send"), JobOwner.API, "me", begin)

    def add_schedule(self, **fields: Any) -> str:
        """Add a schedule and return its id."""
        spec = {"name": f"s{len(self.specs)}", "job": "send", "overlap": "allow", **fields}
        schedule = parse(spec)
        with self.database.write() as connection:
            first = find_next_time(schedule.build_timetable({}), self.now)
            row = schedule_rows.upsert(connection, schedule, ScheduleOwner.API, "me", self.now, first)
        self.specs[row.id] = spec
        return row.id

    def run_until(self, until: dt.datetime) -> None:
        """Evaluate each due schedule as soon as it is due, until `until`."""
        while (moment := self._find_next_evaluation()) is not None and moment < until:
            self.now = moment
            self._evaluate_due()
        self.now = until

    def pause_all(self, until: dt.datetime, resumes_automatically: bool) -> None:
        """Pause every schedule now; the pause ends at `until`, or the test has to call `resume` at that time."""
        with self.database.write() as connection:
            for row in schedule_rows.list_all(connection):
                pauses.pause_schedule(connection, row, None, until if resumes_automatically else None, "me", self.now)
        self.paused = self.now, until

    def resume(self, *ids: str) -> None:
        """End the pause of these schedules, or of every one."""
        with self.database.write() as connection:
            for row in schedule_rows.list_all(connection):
                if row.id in (ids or self.specs):
                    pauses.resume_schedule(connection, row, "me", self.now)

    def is_paused(self, nominal: dt.datetime) -> bool:
        """Return whether an occurrence falls into the pause."""
        return self.paused is not None and self.paused[0] <= nominal < self.paused[1]

    def compute_evaluation_time(self, nominal: dt.datetime) -> dt.datetime:
        """Return the time at which an occurrence is evaluated."""
        begin, end = self.outage
        return end if begin <= nominal + EVALUATION_LAG < end else nominal + EVALUATION_LAG

    def _find_next_evaluation(self) -> dt.datetime | None:
        table = job_schedules.c
        with self.database.read() as connection:
            looks = connection.execute(sa.select(sa.func.min(table.next_at), sa.func.min(table.paused_until))).one()
        moments = [self.compute_evaluation_time(moment) for moment in looks if moment is not None]
        return max(self.now, min(moments)) if moments else None

    def _evaluate_due(self) -> None:
        table = job_schedules.c
        query = sa.select(table.id, table.next_at).where(table.next_at <= self.now)
        with self.database.read() as connection:
            due = {row.id: row.next_at for row in connection.execute(query)}
            over = due_schedules.list_ended_pauses(connection, self.now, 1000)
        if over:
            self.resume(*over)
        while due:
            with self.database.write() as connection:
                due = dict(evaluator.evaluate_due(connection, due, self.now).unfinished)


def _predict_outcomes(simulated: OutageSimulation, end: dt.datetime) -> Iterator[tuple[OccurrenceKey, str]]:
    for schedule, spec in simulated.specs.items():
        together: dict[dt.datetime, list[dt.datetime]] = {}
        held_up = []
        for moment in list_nominal_times(spec, *_get_active_range(spec, simulated.begin, end)):
            if simulated.is_paused(moment):
                held_up.append(moment)
            else:
                together.setdefault(simulated.compute_evaluation_time(moment), []).append(moment)
        for noticed, group in together.items():
            for moment, outcome in _predict_group(group, noticed, **spec["misfire"]):
                yield (schedule, moment), outcome
        most = {"skip": 0, "fire_once": 1, "catch_up": spec["misfire"].get("max", 100)}[spec.get("on_resume", "skip")]
        made_up_for = held_up[max(0, len(held_up) - most) :]
        for moment in held_up:
            yield (schedule, moment), "fired" if moment in made_up_for else "skipped_paused"


def _get_active_range(spec: dict[str, Any], begin: dt.datetime, end: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    start, over = spec.get("start"), spec.get("end")
    first = dt.datetime.fromisoformat(start) if start else begin
    return max(begin, first), min(end, dt.datetime.fromisoformat(over) if over else end)


def _predict_group(
    group: list[dt.datetime], evaluated_at: dt.datetime, policy: str, grace: float = 60, max: int = 100
) -> Iterator[tuple[dt.datetime, str]]:
    """Yield the outcomes of occurrences that are evaluated together, within their grace or later."""
    late = [moment for moment in group if moment < evaluated_at - dt.timedelta(seconds=grace)]
    for moment in group:
        if moment not in late:
            yield moment, "fired"
        elif policy == "skip":
            yield moment, "missed"
        elif policy == "catch_up":
            yield moment, "fired" if moment in late[-max:] else "missed"
        else:
            stands = late == group and moment == late[-1]
            yield moment, "fired" if stands else "coalesced"


@pytest.mark.parametrize(("zone", "outage"), CLOCK_CHANGE_NIGHTS)
def test_outage_leaves_exactly_the_rows_of_the_misfire_policy(
    database: Database, zone: str, outage: dt.datetime
) -> None:
    simulated = OutageSimulation(database, outage - HOUR - EVALUATION_LAG, outage)
    for misfire in MISFIRE_POLICIES:
        for fields in RULES:
            simulated.add_schedule(zone=zone, misfire=misfire, **fields)
        simulated.add_schedule(misfire=misfire, **make_frequent_schedule(outage))
    end = outage + 12 * HOUR
    simulated.run_until(end)

    expected = dict(_predict_outcomes(simulated, end))
    assert compare_database(database, expected, simulated.begin, end) == NO_DISCREPANCIES
    assert set(expected.values()) == {"fired", "coalesced", "missed"}


@pytest.mark.parametrize("by_itself", [True, False])
@pytest.mark.parametrize("on_resume", ["skip", "fire_once", "catch_up"])
def test_pause_in_outage_leaves_exactly_the_rows_of_the_policies(
    database: Database, on_resume: str, by_itself: bool
) -> None:
    zone, outage = CLOCK_CHANGE_NIGHTS[0]
    simulated = OutageSimulation(database, outage - HOUR - EVALUATION_LAG, outage)
    for misfire in MISFIRE_POLICIES[1::2]:
        for fields in RULES[1::2]:
            simulated.add_schedule(zone=zone, misfire=misfire, on_resume=on_resume, **fields)
    simulated.run_until(outage - HOUR / 3)
    # A pause that ends by itself ends during the outage.
    until = outage + (7 if by_itself else 11.1) * HOUR
    simulated.pause_all(until, by_itself)
    if not by_itself:
        simulated.run_until(until)
        simulated.resume()
    end = outage + 12 * HOUR
    simulated.run_until(end)

    expected = dict(_predict_outcomes(simulated, end))
    assert compare_database(database, expected, simulated.begin, end) == NO_DISCREPANCIES
    assert {"fired", "skipped_paused"} <= set(expected.values())
