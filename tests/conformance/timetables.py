"""Schedules that a test settles, and what it finds in the database afterwards."""

import datetime as dt
from typing import Any

from jobworker.domain.execution import ExecutionState
from jobworker.domain.job import JobDefinition, JobOwner
from jobworker.domain.parameters import Parameter
from jobworker.domain.schedule import ScheduleOwner
from jobworker.domain.schedule import parse
from jobworker.domain.timetable import find_next_time
from jobworker.services import calendars, firing
from jobworker.services.firing import EvaluationSummary
from jobworker.store import executions, jobs, schedules, schema, tasks
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import ExecutionFilters
from jobworker.store.schedules import ScheduleRow
from tests.conformance.worlds import make_task
from tests.conftest import NOW

MINUTE = dt.timedelta(minutes=1)
EVERY_MINUTE = {"kind": "interval", "every": 60}


class ScheduleDriver:
    """A database with one job, and schedules of it that are due every minute from `NOW` on."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.put_job()

    def put_job(self, name: str = "send", *parameters: Parameter, **fields: Any) -> None:
        """Make, or change, a job."""
        with self.database.write() as connection:
            tasks.upsert(connection, make_task("tasks.mail.send", *parameters))
            jobs.upsert(connection, JobDefinition(name, task="tasks.mail.send", **fields), JobOwner.API, "me", NOW)

    def put_schedule(self, name: str = "tick", now: dt.datetime = NOW, **fields: Any) -> ScheduleRow:
        """Make, or change, a schedule."""
        made = parse({"name": name, "job": "send", "rule": EVERY_MINUTE, **fields})
        with self.database.write() as connection:
            timetable = made.build_timetable(calendars.load_calendars(connection, made.calendar_names))
            return schedules.upsert(connection, made, ScheduleOwner.API, "me", now, find_next_time(timetable, now))

    def evaluate(self, *rows: ScheduleRow, minutes: float = 1) -> EvaluationSummary:
        """Settle these schedules, so long after `NOW`."""
        now = at_minute(minutes)
        with self.database.write() as connection:
            return firing.evaluate_due(connection, {row.id: now for row in rows}, now)

    def list_outcomes(self, row: ScheduleRow) -> list[tuple[float, str]]:
        """(minutes after `NOW`, outcome) of each row."""
        return [((found.scheduled_for - NOW) / MINUTE, found.outcome) for found in self.list_occurrences(row)]

    def list_occurrences(self, row: ScheduleRow) -> list[Any]:
        """The ledger of a schedule."""
        table = schema.occurrences.c
        with self.database.read() as connection:
            query = schema.occurrences.select().where(table.schedule_id == row.id).order_by(table.scheduled_for)
            return list(connection.execute(query))

    def list_executions(self) -> list[ExecutionRow]:
        """The executions there are, the oldest first."""
        with self.database.read() as connection:
            return list(reversed(executions.list_page(connection, ExecutionFilters(), limit=200).items))

    def list_states(self) -> list[ExecutionState]:
        """Theirs."""
        return [execution.state for execution in self.list_executions()]

    def get_schedule(self, row: ScheduleRow) -> ScheduleRow:
        """The schedule as it stands."""
        with self.database.read() as connection:
            found = schedules.get_by_id(connection, row.id)
        assert found is not None
        return found


def at_minute(minutes: float) -> dt.datetime:
    """So long after `NOW`."""
    return NOW + minutes * MINUTE
