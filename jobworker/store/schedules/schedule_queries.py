"""Pages of schedules and their revisions, counts by status, and overdue schedules."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedules.schedule import ScheduleOwner, ScheduleState
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.store import revision_pages, unreadable_rows
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key, parse_number_key
from jobworker.store.schedules.schedule_rows import ScheduleRow, check_spec, describe_row, to_row
from jobworker.store.similar_names import list_nearby
from jobworker.store.tables.schedules import HAS_NEXT_DUE, job_schedules, schedule_calendars, schedule_revisions


@dataclass(frozen=True, slots=True)
class ScheduleRowFilters:
    """Filters of schedules; None does not filter. `overdue_since`: due before this moment and not evaluated."""

    job: str | None = None
    owner: ScheduleOwner | None = None
    state: ScheduleStatus | None = None
    calendar: str | None = None
    overdue_since: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRevisionRow:
    """Schedule at one revision."""

    schedule_id: str
    revision: int
    spec: dict[str, Any]
    created_at: dt.datetime
    actor: str


def list_page(
    connection: sa.Connection,
    filters: ScheduleRowFilters,
    cursor_filters: Any,
    now: dt.datetime,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[ScheduleRow]:
    """Return a page of schedules, ordered by name; the cursor covers `cursor_filters`, the filters of the client."""
    listing = Paginator("schedules", cursor_filters, parse_name_key)
    query = (
        sa.select(job_schedules).where(*_build_conditions(filters, now)).order_by(job_schedules.c.name).limit(limit + 1)
    )
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(job_schedules.c.name > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.name, to_row, describe_row)


def list_nearby_names(connection: sa.Connection, name: str) -> list[str]:
    """Return schedule names close to `name` in alphabetical order."""
    return list_nearby(connection, job_schedules.c.name, name)


def list_names_by_job(connection: sa.Connection, job: str) -> list[str]:
    """Return the names of the schedules that will start this job, except the one in its definition."""
    query = sa.select(job_schedules.c.name).where(
        job_schedules.c.job == job,
        job_schedules.c.owner != ScheduleOwner.JOB.value,
        job_schedules.c.next_at.is_not(None),
    )
    return list(connection.scalars(query.order_by(job_schedules.c.name)))


def list_revisions(
    connection: sa.Connection, schedule_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ScheduleRevisionRow]:
    """Return a page of the revisions of a schedule, latest first."""
    listing = Paginator("schedule_revisions", {"schedule": schedule_id}, parse_number_key)
    query = sa.select(schedule_revisions).where(schedule_revisions.c.schedule_id == schedule_id)
    return revision_pages.list_page(connection, listing, query, _to_revision, limit, cursor, _describe_revision)


def get_revision(connection: sa.Connection, schedule_id: str, number: int) -> ScheduleRevisionRow | None:
    """Return a revision of a schedule."""
    query = sa.select(schedule_revisions).where(
        schedule_revisions.c.schedule_id == schedule_id, schedule_revisions.c.revision == number
    )
    row = connection.execute(query).one_or_none()
    return _to_revision(row) if row is not None else None


def get_latest_revision(connection: sa.Connection, schedule_id: str) -> ScheduleRevisionRow | None:
    """Return the latest revision of an existing or deleted schedule."""
    revisions = list_revisions(connection, schedule_id, 1).items
    return revisions[0] if revisions else None


def list_overdue(connection: sa.Connection, since: dt.datetime, limit: int) -> list[tuple[str, dt.datetime]]:
    """Return (name, due time) of up to `limit` schedules due before `since` and not evaluated, longest overdue first.

    The end of a pause counts as a due time, because the occurrences of the pause are due then.
    """
    query = sa.select(job_schedules.c.name, job_schedules.c.next_at, job_schedules.c.paused_until).where(
        *_build_overdue_conditions(since)
    )
    query = query.order_by(job_schedules.c.next_at, job_schedules.c.id).limit(limit)
    overdue = [(row.name, max(row.next_at, row.paused_until or row.next_at)) for row in connection.execute(query)]
    return sorted(overdue, key=lambda item: item[1])


def count_overdue(connection: sa.Connection, since: dt.datetime) -> int:
    """Return the number of schedules that were due before `since` and are not evaluated."""
    return (
        connection.scalar(
            sa.select(sa.func.count()).select_from(job_schedules).where(*_build_overdue_conditions(since))
        )
        or 0
    )


def count_by_status(connection: sa.Connection, now: dt.datetime) -> dict[ScheduleStatus, int]:
    """Count the schedules by status, without statuses that no schedule has."""
    statuses = sa.select(_build_status_expression(now).label("status")).subquery()
    counts = connection.execute(sa.select(statuses.c.status, sa.func.count()).group_by(statuses.c.status))
    return dict(unreadable_rows.read_all(counts, _read_count))


_read_count = unreadable_rows.build_reader(
    lambda row: f"state {row[0]!r} of schedules", lambda row: (ScheduleStatus(row[0]), row[1])
)


def _build_status_expression(now: dt.datetime) -> sa.ColumnElement[str]:
    """Build the SQL expression equivalent to `domain.schedules.state.compute_status`."""
    return sa.case(
        (job_schedules.c.state != ScheduleState.ACTIVE.value, job_schedules.c.state),
        (job_schedules.c.enabled.is_(False), ScheduleStatus.DISABLED.value),
        (_is_paused(now), ScheduleStatus.PAUSED.value),
        else_=ScheduleStatus.ACTIVE.value,
    )


def _is_paused(now: dt.datetime) -> sa.ColumnElement[bool]:
    endless = sa.or_(job_schedules.c.paused_until.is_(None), job_schedules.c.paused_until > now)
    return sa.and_(job_schedules.c.paused_at.is_not(None), endless)


def _build_conditions(filters: ScheduleRowFilters, now: dt.datetime) -> Iterator[Any]:
    if filters.job is not None:
        yield job_schedules.c.job == filters.job
    if filters.owner is not None:
        yield job_schedules.c.owner == filters.owner.value
    if filters.state is not None:
        yield _build_status_expression(now) == filters.state.value
    if filters.calendar is not None:
        using = sa.select(schedule_calendars.c.schedule_id).where(schedule_calendars.c.calendar == filters.calendar)
        yield job_schedules.c.id.in_(using)
    if filters.overdue_since is not None:
        yield from _build_overdue_conditions(filters.overdue_since)


def _build_overdue_conditions(since: dt.datetime) -> Iterator[Any]:
    yield sa.text(HAS_NEXT_DUE)
    yield job_schedules.c.next_at < since
    yield job_schedules.c.state == ScheduleState.ACTIVE.value
    yield sa.not_(_is_paused(since))


def _describe_revision(row: Any) -> str:
    return f"revision {row.revision} of schedule {row.schedule_id}"


def _make_revision(row: sa.Row[Any]) -> ScheduleRevisionRow:
    check_spec(row)
    return ScheduleRevisionRow(**row._mapping)


_to_revision = unreadable_rows.build_reader(_describe_revision, _make_revision, schedule_revisions)
