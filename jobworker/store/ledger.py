"""Reading the ledger: what became of the occurrences of one schedule."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.settling import Outcome
from jobworker.store import schema, unreadable
from jobworker.store.occurrences import Occurrence
from jobworker.store.pages import DEFAULT_LIMIT, Listing, Page, moment_key

_occurrences = schema.occurrences


@dataclass(frozen=True, slots=True)
class Range:
    """Which occurrences are meant: from `begin` on, before `end`; None does not bound."""

    begin: dt.datetime | None = None
    end: dt.datetime | None = None
    outcome: Outcome | None = None


def page(
    connection: sa.Connection, schedule_id: str, wanted: Range, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Occurrence]:
    """What became of occurrences, the latest first."""
    listing = Listing("occurrences", {"schedule": schedule_id, **asdict(wanted)}, moment_key)
    query = sa.select(_occurrences).where(*_conditions(schedule_id, wanted))
    query = query.order_by(_occurrences.c.scheduled_for.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_occurrences.c.scheduled_for < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.scheduled_for.isoformat(), _read, _what)


def get(connection: sa.Connection, schedule_id: str, scheduled_for: dt.datetime) -> Occurrence | None:
    """What became of one occurrence."""
    query = sa.select(_occurrences).where(*_conditions(schedule_id, Range()))
    row = connection.execute(query.where(_occurrences.c.scheduled_for == scheduled_for)).one_or_none()
    return _read(row) if row is not None else None


def between(
    connection: sa.Connection, schedule_id: str, begin: dt.datetime, end: dt.datetime
) -> dict[dt.datetime, Occurrence]:
    """What became of the occurrences in [begin, end), by their nominal times."""
    rows = connection.execute(sa.select(_occurrences).where(*_conditions(schedule_id, Range(begin, end))))
    return {row.scheduled_for: row for row in unreadable.those(rows, _read)}


def _what(row: Any) -> str:
    return f"occurrence at {row.scheduled_for.isoformat()} of schedule {row.schedule_id}"


_read = unreadable.reader(_what, lambda row: Occurrence(**row._mapping), _occurrences)


def _conditions(schedule_id: str, wanted: Range) -> Iterator[sa.ColumnElement[bool]]:
    yield _occurrences.c.schedule_id == schedule_id
    if wanted.begin is not None:
        yield _occurrences.c.scheduled_for >= wanted.begin
    if wanted.end is not None:
        yield _occurrences.c.scheduled_for < wanted.end
    if wanted.outcome is not None:
        yield _occurrences.c.outcome == wanted.outcome.value
