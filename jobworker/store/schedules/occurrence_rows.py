"""Occurrences of schedules with their outcomes. The primary key ensures that an occurrence is recorded once."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.store import unreadable_rows
from jobworker.store.database import bulk_statements
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_time_key
from jobworker.store.tables.schedules import occurrences


@dataclass(frozen=True, slots=True)
class OccurrenceRow:
    """Recorded occurrence of a schedule."""

    schedule_id: str
    scheduled_for: dt.datetime
    outcome: str
    reason: str | None
    execution_id: str | None
    recorded_at: dt.datetime


@dataclass(frozen=True, slots=True)
class OccurrenceFilters:
    """Filters of occurrences: nominal times in [`begin`, `end`), and the outcome; None does not filter."""

    begin: dt.datetime | None = None
    end: dt.datetime | None = None
    outcome: OccurrenceOutcome | None = None


def insert(connection: sa.Connection, rows: Sequence[OccurrenceRow]) -> set[str]:
    """Insert occurrences; rows that exist already stay unchanged.

    Returns the ids of executions of `rows` that must not be created, because their occurrence has another execution.
    """
    entered = _INSERT.run(connection, map(_to_values, rows))
    if entered == len(rows):
        return set()
    redundant_ids = {row.execution_id for row in rows if row.execution_id}
    schedules = sorted({row.schedule_id for row in rows})
    between = min(row.scheduled_for for row in rows), max(row.scheduled_for for row in rows)
    for chunk in split_ids(schedules):
        query = sa.select(occurrences.c.execution_id).where(
            occurrences.c.schedule_id.in_(chunk),
            occurrences.c.scheduled_for.between(*between),
        )
        redundant_ids -= set(connection.scalars(query))
    return redundant_ids


def list_skipped_by_pause(
    connection: sa.Connection, schedule_id: str, since: dt.datetime, limit: int
) -> list[dt.datetime]:
    """Return the latest `limit` nominal times from `since` on that were skipped by a pause, ascending."""
    conditions = occurrences.c.schedule_id == schedule_id, occurrences.c.scheduled_for >= since
    query = (
        sa.select(occurrences.c.scheduled_for)
        .where(*conditions, occurrences.c.outcome == OccurrenceOutcome.SKIPPED_PAUSED.value)
        .order_by(occurrences.c.scheduled_for.desc())
        .limit(limit)
    )
    return sorted(connection.scalars(query))


def update(connection: sa.Connection, rows: Sequence[OccurrenceRow]) -> None:
    """Overwrite the outcomes of these occurrences."""
    _UPDATE.run(connection, map(_to_values, rows))


def _to_values(row: OccurrenceRow) -> tuple[object, ...]:
    return row.schedule_id, row.scheduled_for, row.outcome, row.reason, row.execution_id, row.recorded_at


def _build_update(_dialect: str) -> Any:
    key = {name: sa.bindparam(f"key_{name}", type_=occurrences.c[name].type) for name in _COLUMNS[:2]}
    values = {name: sa.bindparam(f"new_{name}", type_=occurrences.c[name].type) for name in _COLUMNS[2:]}
    return sa.update(occurrences).where(*(occurrences.c[name] == value for name, value in key.items())).values(values)


_COLUMNS = [item.name for item in fields(OccurrenceRow)]
_INSERT = BulkStatement(bulk_statements.build_insert_or_ignore(occurrences, _COLUMNS), _COLUMNS)
_UPDATE = BulkStatement(
    _build_update, [*(f"key_{name}" for name in _COLUMNS[:2]), *(f"new_{name}" for name in _COLUMNS[2:])]
)


def list_page(
    connection: sa.Connection,
    schedule_id: str,
    filters: OccurrenceFilters,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[OccurrenceRow]:
    """Return a page of the occurrences of a schedule, latest first."""
    listing = Paginator("occurrences", {"schedule": schedule_id, **asdict(filters)}, parse_time_key)
    query = sa.select(occurrences).where(*_build_conditions(schedule_id, filters))
    query = query.order_by(occurrences.c.scheduled_for.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(occurrences.c.scheduled_for < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.scheduled_for.isoformat(), _to_row, _describe_row)


def get(connection: sa.Connection, schedule_id: str, scheduled_for: dt.datetime) -> OccurrenceRow | None:
    """Return an occurrence of a schedule."""
    query = sa.select(occurrences).where(*_build_conditions(schedule_id, OccurrenceFilters()))
    row = connection.execute(query.where(occurrences.c.scheduled_for == scheduled_for)).one_or_none()
    return _to_row(row) if row is not None else None


def find_between(
    connection: sa.Connection, schedule_id: str, begin: dt.datetime, end: dt.datetime
) -> dict[dt.datetime, OccurrenceRow]:
    """Return the occurrences of a schedule in [begin, end), by their nominal times."""
    rows = connection.execute(
        sa.select(occurrences).where(*_build_conditions(schedule_id, OccurrenceFilters(begin, end)))
    )
    return {row.scheduled_for: row for row in unreadable_rows.read_all(rows, _to_row)}


def _describe_row(row: Any) -> str:
    return f"occurrence at {row.scheduled_for.isoformat()} of schedule {row.schedule_id}"


_to_row = unreadable_rows.build_reader(_describe_row, lambda row: OccurrenceRow(**row._mapping), occurrences)


def _build_conditions(schedule_id: str, filters: OccurrenceFilters) -> Iterator[sa.ColumnElement[bool]]:
    yield occurrences.c.schedule_id == schedule_id
    if filters.begin is not None:
        yield occurrences.c.scheduled_for >= filters.begin
    if filters.end is not None:
        yield occurrences.c.scheduled_for < filters.end
    if filters.outcome is not None:
        yield occurrences.c.outcome == filters.outcome.value
