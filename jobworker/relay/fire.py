"""The third step of a turn: due occurrences become executions, each once. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from jobworker.domain.events import Event, Kind
from jobworker.domain.execution import State
from jobworker.domain.ids import IdFactory
from jobworker.store import executions, jobs, schedules
from jobworker.store.executions import NewExecution
from jobworker.store.jobs import JobRow

logger = structlog.get_logger(__name__)


def fire(connection: sa.Connection, reports: Sequence[Event], ids: IdFactory, now: dt.datetime) -> int:
    """Make an execution of each occurrence that has none yet; answers how many."""
    due = [event for event in reports if event.kind is Kind.DUE]
    return sum(_fire_one(connection, event, ids, now) for event in due)


def _fire_one(connection: sa.Connection, event: Event, ids: IdFactory, now: dt.datetime) -> bool:
    schedule = schedules.get(connection, event.data["schedule"])
    if schedule is None:
        logger.info("schedule_gone", schedule=event.data["schedule"])
        return False
    nominal = dt.datetime.fromisoformat(event.data["at"])
    job = jobs.get(connection, schedule.job)
    if job is None or not job.definition.enabled:
        reason = "the job was disabled or deleted when this occurrence was due"
        schedules.record(connection, schedule.id, nominal, "skipped_paused", None, now, reason)
        return False
    execution = _execution(job, schedule.id, nominal, ids, now)
    if not schedules.record(connection, schedule.id, nominal, "fired", execution.id, now):
        return False
    executions.insert(connection, [execution], f"schedule:{schedule.job}", now)
    return True


def _execution(job: JobRow, schedule: str, nominal: dt.datetime, ids: IdFactory, now: dt.datetime) -> NewExecution:
    definition = job.definition
    key = ids.new(int(now.timestamp() * 1000))
    return NewExecution(
        id=key,
        job=definition.name,
        job_revision=job.revision,
        task=definition.task,
        max_attempts=definition.max_attempts,
        queue=definition.queue,
        priority=definition.priority,
        parameters=definition.defaults,
        correlation_id=key,
        batch_id=None,
        schedule_id=schedule,
        scheduled_for=nominal,
        due_at=now,
        state=State.QUEUED,
    )
