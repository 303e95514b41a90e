"""Settling a schedule: every occurrence that is due gets its row in the ledger, and those that run their execution."""

import datetime as dt

import sqlalchemy as sa
import structlog

from jobworker.domain import limits
from jobworker.domain.errors import NotUnique
from jobworker.domain.timetable import next_after, occurrences
from jobworker.services import preparing, release, unique
from jobworker.store import dependencies, executions, jobs, schedules, tasks
from jobworker.store.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.schedules import ScheduleRow

logger = structlog.get_logger(__name__)


def settle(connection: sa.Connection, schedule_id: str, horizon: dt.datetime, now: dt.datetime) -> int:
    """Enter what becomes of each occurrence up to `horizon`; answers how many executions that made."""
    row = schedules.get(connection, schedule_id)
    if row is None:
        logger.info("schedule_gone", schedule=schedule_id)
        return 0
    table = row.schedule.timetable({})
    due = list(occurrences(table, row.settled_until, horizon + dt.timedelta(microseconds=1)))
    fired = sum(_fire_one(connection, row, nominal, now) for nominal in due)
    schedules.settled(connection, row.id, max([*due, row.settled_until]), next_after(table, max([*due, horizon])))
    return fired


def _fire_one(connection: sa.Connection, row: ScheduleRow, nominal: dt.datetime, now: dt.datetime) -> bool:
    job = jobs.get(connection, row.job)
    if job is None or not job.definition.enabled:
        reason = "the job was disabled when this occurrence was due"
        schedules.record(connection, row.id, nominal, "skipped_paused", None, now, reason)
        return False
    execution = _execution(connection, row, job, nominal, now)
    other = _taken(connection, job, execution, now)
    if other is not None:
        schedules.record(connection, row.id, nominal, "skipped_duplicate", None, now, other)
        return False
    schedules.record(connection, row.id, nominal, "fired", execution.id, now)
    executions.insert(connection, [execution], f"schedule:{row.name}", now)
    return True


def _taken(connection: sa.Connection, job: JobRow, execution: NewExecution, now: dt.datetime) -> str | None:
    """Why another execution stands for this occurrence."""
    policies = {job.definition.name: job.definition.policies["unique"]}
    try:
        decided = unique.decide(connection, [execution], policies, now)
    except NotUnique as error:
        return error.detail
    release.release(connection, dependencies.ended(connection, decided.cancelled), now)
    [answer] = decided.ids
    return f"execution {answer} stands for it" if answer != execution.id else None


def _execution(
    connection: sa.Connection, row: ScheduleRow, job: JobRow, nominal: dt.datetime, now: dt.datetime
) -> NewExecution:
    definition = job.definition
    task = tasks.get(connection, definition.task)
    accepted = task.parameters if task else ()
    keys = limits.keys(definition.name, definition.policies, definition.defaults, accepted)
    key = preparing.make_id(now)
    own = {"id": key, "correlation_id": key, "schedule_id": row.id, "scheduled_for": nominal, **keys._asdict()}
    return preparing.new_execution(definition, job.revision, definition.defaults, now, **own)
