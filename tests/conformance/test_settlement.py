"""Settling schedules in SQL, on both databases: rows of the ledger, executions, how far each schedule has come."""

import datetime as dt
from typing import Any

from jobworker.domain.execution import State
from jobworker.domain.job import Definition, Owner
from jobworker.domain.schedule import Owner as ScheduleOwner
from jobworker.domain.schedule import parse
from jobworker.domain.timetable import next_after
from jobworker.services import firing
from jobworker.services.firing import Fired
from jobworker.store import executions, jobs, schedules, schema, tasks
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import Filters
from jobworker.store.schedules import ScheduleRow
from tests.conformance.worlds import task
from tests.conftest import NOW

MINUTE = dt.timedelta(minutes=1)
EVERY_MINUTE = {"kind": "interval", "every": 60}

Ledger = list[tuple[float, str]]


def job(database: Database, name: str = "send", **fields: Any) -> None:
    with database.write() as connection:
        tasks.put(connection, task())
        jobs.put(connection, Definition(name, task="tasks.mail.send", **fields), Owner.API, "me", NOW)


def schedule(database: Database, name: str = "tick", now: dt.datetime = NOW, **fields: Any) -> ScheduleRow:
    made = parse({"name": name, "job": "send", "rule": EVERY_MINUTE, **fields})
    with database.write() as connection:
        return schedules.put(connection, made, ScheduleOwner.API, "me", now, next_after(made.timetable({}), now))


def settle(database: Database, *rows: ScheduleRow, minutes: float = 1) -> Fired:
    now = NOW + minutes * MINUTE
    with database.write() as connection:
        return firing.settle(connection, {row.id: now for row in rows}, now)


def ledger(database: Database, row: ScheduleRow) -> Ledger:
    """(minutes after `NOW`, outcome) of each row."""
    table = schema.occurrences.c
    with database.read() as connection:
        query = schema.occurrences.select().where(table.schedule_id == row.id).order_by(table.scheduled_for)
        return [((found.scheduled_for - NOW) / MINUTE, found.outcome) for found in connection.execute(query)]


def made(database: Database) -> list[ExecutionRow]:
    with database.read() as connection:
        return list(reversed(executions.page(connection, Filters(), limit=200).items))


def standing(database: Database, row: ScheduleRow) -> ScheduleRow:
    with database.read() as connection:
        found = schedules.by_id(connection, row.id)
    assert found is not None
    return found


def test_what_is_due_fires_once_however_often_it_is_said(database: Database) -> None:
    job(database)
    tick = schedule(database, parameters={"to": "b"}, queue="low", priority=2)
    assert settle(database, tick).count == 1
    assert settle(database, tick).count == 0
    assert settle(database, tick, minutes=0).count == 0
    assert ledger(database, tick) == [(1, "fired")]
    [execution] = made(database)
    assert (execution.schedule_id, execution.scheduled_for) == (tick.id, NOW + MINUTE)
    assert (execution.queue, execution.priority, execution.parameters) == ("low", 2, {"to": "b"})
    assert (execution.state, execution.created_by) == (State.QUEUED, "schedule:tick")
    after = standing(database, tick)
    assert (after.settled_until, after.next_at, after.runs) == (NOW + MINUTE, NOW + 2 * MINUTE, 1)


def test_many_schedules_are_settled_together(database: Database) -> None:
    job(database)
    rows = [schedule(database, f"tick{number}") for number in range(30)]
    assert settle(database, *rows).count == 30
    assert len({execution.schedule_id for execution in made(database)}) == 30
    assert all(ledger(database, row) == [(1, "fired")] for row in rows)
