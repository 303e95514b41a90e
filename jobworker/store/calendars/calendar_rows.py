"""Calendars, their revisions, and the schedules that use them."""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import Conflict
from jobworker.domain.jobs.definition import JobOwner
from jobworker.store import audit, revision_pages, unreadable_rows
from jobworker.store.audit import AuditEntry
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key, parse_number_key
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.similar_names import list_nearby
from jobworker.store.tables.schedules import calendar_revisions, calendars, job_schedules, schedule_calendars

# Runs in every evaluation of schedules; built once, because building the statement costs as much as running it.
_CURRENT_REVISIONS = (
    sa.select(calendars.c.name, calendars.c.revision, calendars.c.changed_at)
    .where(calendars.c.name.in_(sa.bindparam("names", expanding=True)))
    .order_by(calendars.c.name)
)
_CURRENT_REVISIONS_LOCKED = _CURRENT_REVISIONS.with_for_update(read=True)


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """Current revision of a calendar; `spec` is JSON of `domain.calendars.calendars`."""

    name: str
    revision: int
    owner: JobOwner
    spec: Mapping[str, Any]
    created_at: dt.datetime
    changed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class CalendarRevisionRow:
    """Calendar at one revision."""

    calendar: str
    revision: int
    spec: Mapping[str, Any]
    created_at: dt.datetime
    actor: str


def get(connection: sa.Connection, name: str, lock: bool = False) -> CalendarRow | None:
    """Return the calendar with this name; `lock` keeps other transactions from changing it until this one ends."""
    query = sa.select(calendars).where(calendars.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return _to_row(row) if row is not None else None


def get_many(connection: sa.Connection, names: Collection[str]) -> dict[str, CalendarRow]:
    """Return the existing calendars among `names`, by name."""
    rows = connection.execute(sa.select(calendars).where(calendars.c.name.in_(names)))
    return {row.name: row for row in unreadable_rows.read_all(rows, _to_row)}


def get_current_revisions(
    connection: sa.Connection, names: Collection[str], lock: bool = False
) -> dict[str, tuple[int, dt.datetime]]:
    """Return the current revision of the existing calendars among `names` and the time of its change, by name.

    `lock` keeps other transactions from changing or deleting these calendars until this one ends.
    """
    rows = connection.execute(_CURRENT_REVISIONS_LOCKED if lock else _CURRENT_REVISIONS, {"names": list(names)})
    return {row.name: (row.revision, row.changed_at) for row in rows}


def list_nearby_names(connection: sa.Connection, name: str) -> list[str]:
    """Return calendar names close to `name` in alphabetical order."""
    return list_nearby(connection, calendars.c.name, name)


def list_owned(connection: sa.Connection, owner: JobOwner) -> list[CalendarRow]:
    """Return the calendars with this owner, ordered by name."""
    query = sa.select(calendars).where(calendars.c.owner == owner.value).order_by(calendars.c.name)
    return list(unreadable_rows.read_all(connection.execute(query), _to_row))


def list_page(connection: sa.Connection, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[CalendarRow]:
    """Return a page of calendars, ordered by name."""
    listing = Paginator("calendars", {}, parse_name_key)
    query = sa.select(calendars).order_by(calendars.c.name).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(calendars.c.name > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.name, _to_row, _describe_row)


def get_revision(connection: sa.Connection, calendar: str, number: int) -> CalendarRevisionRow | None:
    """Return a revision of a calendar; revisions outlive their calendar."""
    query = sa.select(calendar_revisions).where(
        calendar_revisions.c.calendar == calendar, calendar_revisions.c.revision == number
    )
    row = connection.execute(query).one_or_none()
    return _to_revision(row) if row is not None else None


def list_revisions(
    connection: sa.Connection, calendar: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[CalendarRevisionRow]:
    """Return a page of the revisions of a calendar, latest first."""
    listing = Paginator("calendar_revisions", {"calendar": calendar}, parse_number_key)
    query = sa.select(calendar_revisions).where(calendar_revisions.c.calendar == calendar)
    return revision_pages.list_page(connection, listing, query, _to_revision, limit, cursor, _describe_revision)


def upsert(
    connection: sa.Connection, name: str, spec: Mapping[str, Any], owner: JobOwner, actor: str, now: dt.datetime
) -> CalendarRow:
    """Insert or change a calendar. No new revision is written if nothing changes."""
    before = get(connection, name, lock=True)
    if before and before.owner is owner and before.spec == spec:
        return before
    number = _next_revision(connection, name)
    values = {"revision": number, "owner": owner.value, "spec": spec, "changed_at": now}
    try:
        if before is None:
            connection.execute(calendars.insert().values(name=name, created_at=now, **values))
        else:
            connection.execute(calendars.update().where(calendars.c.name == name).values(values))
        connection.execute(
            calendar_revisions.insert().values(calendar=name, revision=number, spec=spec, created_at=now, actor=actor)
        )
    except sa.exc.IntegrityError as error:
        raise Conflict(f"calendar {name} was changed by a concurrent request; try again") from error
    action = "calendar.change" if before else "calendar.create"
    audit.record(connection, AuditEntry(now, actor, action, name, before.spec if before else None, spec))
    return CalendarRow(name, number, owner, spec, before.created_at if before else now, now)


def delete(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> None:
    """Delete a calendar; its revisions stay."""
    connection.execute(calendars.delete().where(calendars.c.name == row.name))
    audit.record(connection, AuditEntry(now, actor, "calendar.delete", row.name, row.spec, None))


def lock_using_schedules(connection: sa.Connection, calendar: str) -> list[ScheduleRow]:
    """Lock and return the schedules that use this calendar, ordered by id."""
    query = (
        sa.select(job_schedules)
        .join(schedule_calendars, schedule_calendars.c.schedule_id == job_schedules.c.id)
        .where(schedule_calendars.c.calendar == calendar)
    )
    rows = connection.execute(query.order_by(job_schedules.c.id).with_for_update(of=job_schedules))
    return list(unreadable_rows.read_all(rows, schedule_rows.to_row))


def _next_revision(connection: sa.Connection, name: str) -> int:
    highest = connection.scalar(
        sa.select(sa.func.max(calendar_revisions.c.revision)).where(calendar_revisions.c.calendar == name)
    )
    return (highest or 0) + 1


_SPEC_CHECK = unreadable_rows.build_object_check(kind=str)


def _describe_row(row: Any) -> str:
    return f"calendar {row.name}"


def _describe_revision(row: Any) -> str:
    return f"revision {row.revision} of calendar {row.calendar}"


def _check_spec(row: sa.Row[Any]) -> None:
    if not _SPEC_CHECK(row.spec):
        raise TypeError("spec is not a calendar")


def _make(row: sa.Row[Any]) -> CalendarRow:
    _check_spec(row)
    return CalendarRow(**{**row._mapping, "owner": JobOwner(row.owner)})


def _make_revision(row: sa.Row[Any]) -> CalendarRevisionRow:
    _check_spec(row)
    return CalendarRevisionRow(**row._mapping)


_to_row = unreadable_rows.build_reader(_describe_row, _make, calendars)
_to_revision = unreadable_rows.build_reader(_describe_revision, _make_revision, calendar_revisions)
