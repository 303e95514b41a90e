"""Driver for tests that evaluate schedules and read the resulting rows."""

import datetime as dt
from typing import Any

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.services.calendars import calendars
from jobworker.services.schedules import evaluator
from jobworker.services.schedules.evaluator import EvaluationSummary
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.tables.schedules import occurrences
from tests.conformance.factories import make_task
from tests.conftest import NOW

MINUTE = dt.timedelta(minutes=1)
EVERY_MINUTE = {"kind": "interval", "every": 60}


class ScheduleDriver:
    """Database with one job, and schedules of this job that are due every minute from `NOW` on."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.put_job()

    def put_job(self, name: str = "send", *parameters: Parameter, **fields: Any) -> None:
        """Create or change a job."""
        with self.database.write() as connection:
            tasks.upsert(connection, make_task("tasks.mail.send", *parameters))
            jobs.upsert(connection, JobDefinition(name, task="tasks.mail.send", **fields), JobOwner.API, "me", NOW)

    def put_schedule(self, name: str = "tick", now: dt.datetime = NOW, **fields: Any) -> ScheduleRow:
        """Create or change a schedule."""
        schedule = parse({"name": name, "job": "send", "rule": EVERY_MINUTE, **fields})
        with self.database.write() as connection:
            timetable = schedule.build_timetable(calendars.load_calendars(connection, schedule.calendar_names))
            return schedule_rows.upsert(
                connection, schedule, ScheduleOwner.API, "me", now, find_next_time(timetable, now)
            )

    def evaluate(self, *rows: ScheduleRow, minutes: float = 1) -> EvaluationSummary:
        """Evaluate these schedules `minutes` after `NOW`."""
        now = at_minute(minutes)
        with self.database.write() as connection:
            return evaluator.evaluate_due(connection, {row.id: now for row in rows}, now)

    def list_outcomes(self, row: ScheduleRow) -> list[tuple[float, str]]:
        """Return (minutes after `NOW`, outcome) of each occurrence row."""
        return [
            ((occurrence.scheduled_for - NOW) / MINUTE, occurrence.outcome) for occurrence in self.list_occurrences(row)
        ]

    def list_occurrences(self, row: ScheduleRow) -> list[Any]:
        """Return the occurrence rows of a schedule."""
        table = occurrences.c
        with self.database.read() as connection:
            query = occurrences.select().where(table.schedule_id == row.id).order_by(table.scheduled_for)
            return list(connection.execute(query))

    def list_executions(self) -> list[ExecutionRow]:
        """Return all executions, the oldest first."""
        with self.database.read() as connection:
            return list(reversed(executions.list_page(connection, ExecutionFilters(), limit=200).items))

    def list_states(self) -> list[ExecutionState]:
        """Return the states of all executions, the oldest first."""
        return [execution.state for execution in self.list_executions()]

    def get_schedule(self, row: ScheduleRow) -> ScheduleRow:
        """Return the current row of a schedule."""
        with self.database.read() as connection:
            current_row = schedule_rows.get_by_id(connection, row.id)
        assert current_row is not None
        return current_row


def at_minute(minutes: float) -> dt.datetime:
    """Return the time `minutes` after `NOW`."""
    return NOW + minutes * MINUTE
