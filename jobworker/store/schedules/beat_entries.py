"""Columns of schedules for beat, read from SQL in bounded chunks."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.tables.schedules import calendars, job_schedules, schedule_calendars

_RETIRED = ScheduleState.RETIRED.value

#: Sum of the revisions of the calendars of a schedule; part of `BeatScheduleRow.version`.
_calendar_revisions = (
    sa.select(sa.func.coalesce(sa.func.sum(calendars.c.revision), 0))
    .select_from(schedule_calendars.join(calendars, calendars.c.name == schedule_calendars.c.calendar))
    .where(schedule_calendars.c.schedule_id == job_schedules.c.id)
    .scalar_subquery()
    .label("calendar_revisions")
)
_columns = (
    job_schedules.c.id,
    job_schedules.c.revision,
    _calendar_revisions,
    job_schedules.c.enabled,
    job_schedules.c.state,
    job_schedules.c.next_at,
)


@dataclass(frozen=True, slots=True)
class BeatScheduleRow:
    """Next due time of a schedule (None: not due at present), and the version that this time was computed for."""

    id: str
    version: str
    next_at: dt.datetime | None


def list_changed(connection: sa.Connection, since: dt.datetime, limit: int) -> list[BeatScheduleRow]:
    """Return up to `limit` schedules changed at `since` or later, latest change first."""
    statement = sa.select(*_columns).where(job_schedules.c.changed_at >= since)
    return _read_rows(connection, statement.order_by(job_schedules.c.changed_at.desc()).limit(limit))


def list_after(connection: sa.Connection, schedule_id: str, limit: int) -> list[BeatScheduleRow]:
    """Return the next `limit` schedules after this id, ordered by id; "" precedes all ids."""
    statement = sa.select(*_columns).where(job_schedules.c.id > schedule_id)
    return _read_rows(connection, statement.order_by(job_schedules.c.id).limit(limit))


def get_by_ids(connection: sa.Connection, ids: Sequence[str]) -> list[BeatScheduleRow]:
    """Return the existing schedules with these ids."""
    statement = sa.select(*_columns)
    return [
        plan
        for chunk in split_ids(ids)
        for plan in _read_rows(connection, statement.where(job_schedules.c.id.in_(chunk)))
    ]


def get_with_specs(connection: sa.Connection, ids: Sequence[str]) -> list[tuple[BeatScheduleRow, Mapping[str, Any]]]:
    """Return the existing schedules with these ids, with their specifications (`domain.schedules.schedule`)."""
    statement = sa.select(*_columns, job_schedules.c.spec)
    rows = (
        row for chunk in split_ids(ids) for row in connection.execute(statement.where(job_schedules.c.id.in_(chunk)))
    )
    return [(_to_row(row), row.spec) for row in rows]


def _read_rows(connection: sa.Connection, statement: sa.Select[Any]) -> list[BeatScheduleRow]:
    return [_to_row(row) for row in connection.execute(statement)]


def _to_row(row: Any) -> BeatScheduleRow:
    # An exhausted schedule may have one more occurrence, whose row documents the exhaustion.
    is_current = row.enabled and row.state != _RETIRED
    return BeatScheduleRow(row.id, f"{row.revision}.{row.calendar_revisions}", row.next_at if is_current else None)
