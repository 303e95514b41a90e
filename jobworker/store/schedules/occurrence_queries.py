"""Reading the ledger: what became of the occurrences of one schedule."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.store import unreadable_rows
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_time_key
from jobworker.store.schedules.occurrence_rows import OccurrenceRow
from jobworker.store.tables import core

_occurrences = core.occurrences


@dataclass(frozen=True, slots=True)
class OccurrenceFilters:
    """Which occurrences are meant: from `begin` on, before `end`; None does not bound."""

    begin: dt.datetime | None = None
    end: dt.datetime | None = None
    outcome: OccurrenceOutcome | None = None


def list_page(
    connection: sa.Connection,
    schedule_id: str,
    filters: OccurrenceFilters,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[OccurrenceRow]:
    """What became of occurrences, the latest first."""
    listing = Paginator("occurrences", {"schedule": schedule_id, **asdict(filters)}, parse_time_key)
    query = sa.select(_occurrences).where(*_build_conditions(schedule_id, filters))
    query = query.order_by(_occurrences.c.scheduled_for.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_occurrences.c.scheduled_for < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.scheduled_for.isoformat(), _to_row, _describe_row)


def get(connection: sa.Connection, schedule_id: str, scheduled_for: dt.datetime) -> OccurrenceRow | None:
    """What became of one occurrence."""
    query = sa.select(_occurrences).where(*_build_conditions(schedule_id, OccurrenceFilters()))
    row = connection.execute(query.where(_occurrences.c.scheduled_for == scheduled_for)).one_or_none()
    return _to_row(row) if row is not None else None


def find_between(
    connection: sa.Connection, schedule_id: str, begin: dt.datetime, end: dt.datetime
) -> dict[dt.datetime, OccurrenceRow]:
    """What became of the occurrences in [begin, end), by their nominal times."""
    rows = connection.execute(
        sa.select(_occurrences).where(*_build_conditions(schedule_id, OccurrenceFilters(begin, end)))
    )
    return {row.scheduled_for: row for row in unreadable_rows.read_all(rows, _to_row)}


def _describe_row(row: Any) -> str:
    return f"occurrence at {row.scheduled_for.isoformat()} of schedule {row.schedule_id}"


_to_row = unreadable_rows.build_reader(_describe_row, lambda row: OccurrenceRow(**row._mapping), _occurrences)


def _build_conditions(schedule_id: str, filters: OccurrenceFilters) -> Iterator[sa.ColumnElement[bool]]:
    yield _occurrences.c.schedule_id == schedule_id
    if filters.begin is not None:
        yield _occurrences.c.scheduled_for >= filters.begin
    if filters.end is not None:
        yield _occurrences.c.scheduled_for < filters.end
    if filters.outcome is not None:
        yield _occurrences.c.outcome == filters.outcome.value
