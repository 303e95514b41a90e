"""The ledger: what became of each occurrence of a schedule. Its key is what makes an occurrence happen once."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.store import unreadable_rows
from jobworker.store.engine import bulk
from jobworker.store.engine.bulk import BulkStatement
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_time_key
from jobworker.store.tables.schedules import occurrences

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK_SIZE = 5_000


@dataclass(frozen=True, slots=True)
class OccurrenceRow:
    """A row of the ledger."""

    schedule_id: str
    scheduled_for: dt.datetime
    outcome: str
    reason: str | None
    execution_id: str | None
    recorded_at: dt.datetime


@dataclass(frozen=True, slots=True)
class OccurrenceFilters:
    """Which occurrences are meant: from `begin` on, before `end`; None does not bound."""

    begin: dt.datetime | None = None
    end: dt.datetime | None = None
    outcome: OccurrenceOutcome | None = None


def insert(connection: sa.Connection, rows: Sequence[OccurrenceRow]) -> set[str]:
    """Enter what became of occurrences; those that had been entered already stay as they are.

    Answers the executions of `rows` that must not be: another one stands for their occurrence.
    """
    entered = _INSERT.run(connection, map(_to_values, rows))
    if entered == len(rows):
        return set()
    wanted = {row.execution_id for row in rows if row.execution_id}
    schedules = sorted({row.schedule_id for row in rows})
    between = min(row.scheduled_for for row in rows), max(row.scheduled_for for row in rows)
    for start in range(0, len(schedules), _CHUNK_SIZE):
        query = sa.select(occurrences.c.execution_id).where(
            occurrences.c.schedule_id.in_(schedules[start : start + _CHUNK_SIZE]),
            occurrences.c.scheduled_for.between(*between),
        )
        wanted -= set(connection.scalars(query))
    return wanted


def list_skipped_by_pause(
    connection: sa.Connection, schedule_id: str, since: dt.datetime, limit: int
) -> list[dt.datetime]:
    """The latest nominal times from `since` on that a pause held up, at most `limit`, ascending."""
    mine = occurrences.c.schedule_id == schedule_id, occurrences.c.scheduled_for >= since
    query = (
        sa.select(occurrences.c.scheduled_for)
        .where(*mine, occurrences.c.outcome == OccurrenceOutcome.SKIPPED_PAUSED.value)
        .order_by(occurrences.c.scheduled_for.desc())
        .limit(limit)
    )
    return sorted(connection.scalars(query))


def update(connection: sa.Connection, rows: Sequence[OccurrenceRow]) -> None:
    """Write down what has become of these occurrences after all."""
    _UPDATE.run(connection, map(_to_values, rows))


def _to_values(row: OccurrenceRow) -> tuple[object, ...]:
    return row.schedule_id, row.scheduled_for, row.outcome, row.reason, row.execution_id, row.recorded_at


def _build_update(_dialect: str) -> Any:
    key = {name: sa.bindparam(f"key_{name}", type_=occurrences.c[name].type) for name in _COLUMNS[:2]}
    values = {name: sa.bindparam(f"new_{name}", type_=occurrences.c[name].type) for name in _COLUMNS[2:]}
    return sa.update(occurrences).where(*(occurrences.c[name] == value for name, value in key.items())).values(values)


_COLUMNS = [item.name for item in fields(OccurrenceRow)]
_INSERT = BulkStatement(bulk.build_insert_or_ignore(occurrences, _COLUMNS), _COLUMNS)
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
    """What became of occurrences, the latest first."""
    listing = Paginator("occurrences", {"schedule": schedule_id, **asdict(filters)}, parse_time_key)
    query = sa.select(occurrences).where(*_build_conditions(schedule_id, filters))
    query = query.order_by(occurrences.c.scheduled_for.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(occurrences.c.scheduled_for < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.scheduled_for.isoformat(), _to_row, _describe_row)


def get(connection: sa.Connection, schedule_id: str, scheduled_for: dt.datetime) -> OccurrenceRow | None:
    """What became of one occurrence."""
    query = sa.select(occurrences).where(*_build_conditions(schedule_id, OccurrenceFilters()))
    row = connection.execute(query.where(occurrences.c.scheduled_for == scheduled_for)).one_or_none()
    return _to_row(row) if row is not None else None


def find_between(
    connection: sa.Connection, schedule_id: str, begin: dt.datetime, end: dt.datetime
) -> dict[dt.datetime, OccurrenceRow]:
    """What became of the occurrences in [begin, end), by their nominal times."""
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
