"""Private database of a simulation: its tables, the copied definitions, and the queries of the simulation."""

import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.schedules.schedule import ScheduleOwner, ScheduleState
from jobworker.store.database.columns import metadata
from jobworker.store.tables import core
from jobworker.store.tables.dependencies import job_triggers
from jobworker.store.tables.schedules import (
    calendars,
    job_schedules,
    occurrences,
    schedule_calendars,
    schedule_revisions,
)

_executions = core.executions

#: Tables that determine occurrences, except earlier occurrences.
_COPIED_TABLES = (
    core.job_definitions, job_triggers, core.tasks, calendars, job_schedules,
    schedule_revisions, schedule_calendars,
)  # fmt: skip

#: Number of rows copied at a time.
_CHUNK_SIZE = 1000


@dataclass(frozen=True, slots=True)
class SimulatedOccurrenceRow:
    """Simulated occurrence with its outcome, and with its execution if it has one."""

    schedule: str
    scheduled_for: dt.datetime
    outcome: str
    reason: str | None
    recorded_at: dt.datetime
    execution: str | None
    state: ExecutionState | None
    started_at: dt.datetime | None
    finished_at: dt.datetime | None


def create_tables(connection: sa.Connection) -> None:
    """Create the empty tables."""
    metadata.create_all(connection)


def copy_definitions(source: sa.Connection, connection: sa.Connection) -> None:
    """Copy the current definitions, calendars and schedules."""
    for table in _COPIED_TABLES:
        for rows in source.execute(sa.select(table)).mappings().partitions(_CHUNK_SIZE):
            connection.execute(table.insert(), [dict(row) for row in rows])


def restrict_schedules(
    connection: sa.Connection, names: Collection[str] | None, owner: ScheduleOwner | None
) -> list[str]:
    """Delete all schedules but those with these names and this owner (None: any) that are not retired.

    Returns the names of the remaining schedules.
    """
    conditions = [job_schedules.c.state != ScheduleState.RETIRED.value]
    conditions += [job_schedules.c.name.in_(names)] if names is not None else []
    conditions += [job_schedules.c.owner == owner.value] if owner is not None else []
    connection.execute(job_schedules.delete().where(sa.not_(sa.and_(*conditions))))
    return list(connection.scalars(sa.select(job_schedules.c.name).order_by(job_schedules.c.name)))


def reset_schedules(connection: sa.Connection, moment: dt.datetime) -> None:
    """Set all schedules to evaluated until and due at `moment`; the first evaluation computes the due times."""
    values = {"settled_until": moment, "next_at": moment, "state": ScheduleState.ACTIVE.value}
    connection.execute(job_schedules.update().values(values))


def get_next_pause_end(connection: sa.Connection) -> dt.datetime | None:
    """Return the end of the next pause that ends by itself."""
    pause_end: dt.datetime | None = connection.scalar(sa.select(sa.func.min(job_schedules.c.paused_until)))
    return pause_end


def skip_unevaluable(connection: sa.Connection, now: dt.datetime) -> None:
    """Clear the due times of schedules that are due and could not be evaluated, so that they do not block others."""
    connection.execute(job_schedules.update().where(job_schedules.c.next_at <= now).values(next_at=None))


def list_ready(connection: sa.Connection) -> list[tuple[str, str | None]]:
    """Return (id, schedule id) of the executions that may start, ordered by id."""
    query = sa.select(_executions.c.id, _executions.c.schedule_id).where(sa.text(core.READY))
    return [(row.id, row.schedule_id) for row in connection.execute(query.order_by(_executions.c.id))]


def count_occurrences(connection: sa.Connection) -> int:
    """Return the number of recorded occurrences."""
    return connection.scalar(sa.select(sa.func.count()).select_from(occurrences)) or 0


def list_occurrences(connection: sa.Connection) -> Iterator[SimulatedOccurrenceRow]:
    """Yield all recorded occurrences, ordered by nominal time."""
    query = (
        sa.select(
            job_schedules.c.name,
            occurrences.c.scheduled_for,
            occurrences.c.outcome,
            occurrences.c.reason,
            occurrences.c.recorded_at,
            occurrences.c.execution_id,
            _executions.c.state,
            _executions.c.started_at,
            _executions.c.finished_at,
        )
        .join(job_schedules, job_schedules.c.id == occurrences.c.schedule_id)
        .outerjoin(_executions, _executions.c.id == occurrences.c.execution_id)
        .order_by(occurrences.c.scheduled_for, job_schedules.c.name)
    )
    for row in connection.execute(query):
        yield SimulatedOccurrenceRow(
            *row[:6], ExecutionState(row.state) if row.state else None, row.started_at, row.finished_at
        )
