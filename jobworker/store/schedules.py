"""Schedules of jobs as the relay needs them, and the ledger of what was due."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.job import Definition
from jobworker.store import schema
from jobworker.store.queues import insert_or_ignore

_jobs = schema.job_definitions
_schedules = schema.job_schedules
_occurrences = schema.occurrences


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule, the job it starts as that stands now, and how far its occurrences are recorded."""

    id: str
    job: str
    rule: Mapping[str, Any]
    enabled: bool
    changed_at: dt.datetime
    definition: Definition
    revision: int
    last_occurrence: dt.datetime | None

    @property
    def after(self) -> dt.datetime:
        """Occurrences up to here are settled: they have a row, or lie before the rule (or a pause) ended."""
        return max(self.changed_at, self.last_occurrence) if self.last_occurrence else self.changed_at


def get(connection: sa.Connection, schedule_id: str) -> ScheduleRow | None:
    """The schedule with this id."""
    row = connection.execute(_query().where(_schedules.c.id == schedule_id)).one_or_none()
    return _to_row(row) if row is not None else None


def all(connection: sa.Connection) -> list[ScheduleRow]:
    """Every schedule, in the order of their ids."""
    return [_to_row(row) for row in connection.execute(_query().order_by(_schedules.c.id))]


def record(
    connection: sa.Connection,
    schedule_id: str,
    scheduled_for: dt.datetime,
    outcome: str,
    execution_id: str | None,
    now: dt.datetime,
    reason: str | None = None,
) -> bool:
    """Enter what became of an occurrence. False: it had been entered already, and nothing was changed."""
    values = {
        "schedule_id": schedule_id,
        "scheduled_for": scheduled_for,
        "outcome": outcome,
        "reason": reason,
        "execution_id": execution_id,
        "recorded_at": now,
    }
    return bool(connection.execute(insert_or_ignore(connection, _occurrences), values).rowcount == 1)


def is_recorded(connection: sa.Connection, schedule_id: str, scheduled_for: dt.datetime) -> bool:
    """Whether it was entered what became of an occurrence."""
    mine = sa.and_(_occurrences.c.schedule_id == schedule_id, _occurrences.c.scheduled_for == scheduled_for)
    return connection.scalar(sa.select(_occurrences.c.outcome).where(mine)) is not None


def _query() -> sa.Select[Any]:
    # One look at the end of the primary key per schedule, however long its ledger is.
    last = (
        sa.select(sa.func.max(_occurrences.c.scheduled_for))
        .where(_occurrences.c.schedule_id == _schedules.c.id)
        .scalar_subquery()
        .label("last_occurrence")
    )
    columns = (_schedules, _jobs.c.definition, _jobs.c.revision, last)
    return sa.select(*columns).join(_jobs, _jobs.c.name == _schedules.c.job)


def _to_row(row: sa.Row[Any]) -> ScheduleRow:
    return ScheduleRow(
        id=row.id,
        job=row.job,
        rule=row.rule,
        enabled=row.enabled,
        changed_at=row.changed_at,
        definition=Definition.from_json(row.definition),
        revision=row.revision,
        last_occurrence=row.last_occurrence,
    )
