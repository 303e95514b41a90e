"""Calendars with their revisions, and which schedules use them."""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import Conflict
from jobworker.domain.job import Owner
from jobworker.store import audit, schedules, schema, unreadable
from jobworker.store import revisions as stored_revisions
from jobworker.store.audit import AuditEntry
from jobworker.store.names import around
from jobworker.store.pages import DEFAULT_LIMIT, Listing, Page, name_key, number_key
from jobworker.store.schedules import ScheduleRow

_calendars = schema.calendars
_revisions = schema.calendar_revisions
_uses = schema.schedule_calendars
_schedules = schema.job_schedules

# Asked in every settlement: building the statement costs as much as running it.
_CURRENT = (
    sa.select(_calendars.c.name, _calendars.c.revision, _calendars.c.changed_at)
    .where(_calendars.c.name.in_(sa.bindparam("names", expanding=True)))
    .order_by(_calendars.c.name)
)
_CURRENT_LOCKED = _CURRENT.with_for_update(read=True)


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """A calendar as it stands; `spec` is JSON of `domain.calendars`."""

    name: str
    revision: int
    owner: Owner
    spec: Mapping[str, Any]
    created_at: dt.datetime
    changed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class CalendarRevision:
    """A calendar as it was at one revision."""

    calendar: str
    revision: int
    spec: Mapping[str, Any]
    created_at: dt.datetime
    actor: str


def get(connection: sa.Connection, name: str, lock: bool = False) -> CalendarRow | None:
    """The calendar of this name; `lock` keeps other transactions from changing it before this one ends."""
    query = sa.select(_calendars).where(_calendars.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return _to_row(row) if row is not None else None


def some(connection: sa.Connection, names: Collection[str]) -> dict[str, CalendarRow]:
    """Those of these calendars that exist, by name."""
    rows = connection.execute(sa.select(_calendars).where(_calendars.c.name.in_(names)))
    return {row.name: row for row in unreadable.those(rows, _to_row)}


def current(
    connection: sa.Connection, names: Collection[str], lock: bool = False
) -> dict[str, tuple[int, dt.datetime]]:
    """The revisions of those of these calendars that exist, and since when they are current, by name.

    With `lock` none of them changes or goes before this transaction ends.
    """
    rows = connection.execute(_CURRENT_LOCKED if lock else _CURRENT, {"names": list(names)})
    return {row.name: (row.revision, row.changed_at) for row in rows}


def names_around(connection: sa.Connection, wanted: str) -> list[str]:
    """Names that come close to `wanted`."""
    return around(connection, _calendars.c.name, wanted)


def owned(connection: sa.Connection, owner: Owner) -> list[CalendarRow]:
    """Every calendar that is edited there, by name."""
    query = sa.select(_calendars).where(_calendars.c.owner == owner.value).order_by(_calendars.c.name)
    return list(unreadable.those(connection.execute(query), _to_row))


def page(connection: sa.Connection, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[CalendarRow]:
    """Calendars by name."""
    listing = Listing("calendars", {}, name_key)
    query = sa.select(_calendars).order_by(_calendars.c.name).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_calendars.c.name > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.name, _to_row, _what)


def revision_row(connection: sa.Connection, calendar: str, number: int) -> CalendarRevision | None:
    """A revision; it outlives the calendar."""
    query = sa.select(_revisions).where(_revisions.c.calendar == calendar, _revisions.c.revision == number)
    row = connection.execute(query).one_or_none()
    return _to_revision(row) if row is not None else None


def revisions(
    connection: sa.Connection, calendar: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[CalendarRevision]:
    """The revisions of a calendar, the latest first."""
    listing = Listing("calendar_revisions", {"calendar": calendar}, number_key)
    query = sa.select(_revisions).where(_revisions.c.calendar == calendar)
    return stored_revisions.page(connection, listing, query, _to_revision, limit, cursor, _what_revision)


def put(
    connection: sa.Connection, name: str, spec: Mapping[str, Any], owner: Owner, actor: str, now: dt.datetime
) -> CalendarRow:
    """Insert the calendar or change it. Nothing to change: no new revision."""
    before = get(connection, name, lock=True)
    if before and before.owner is owner and before.spec == spec:
        return before
    number = _next_revision(connection, name)
    values = {"revision": number, "owner": owner.value, "spec": spec, "changed_at": now}
    try:
        if before is None:
            connection.execute(_calendars.insert().values(name=name, created_at=now, **values))
        else:
            connection.execute(_calendars.update().where(_calendars.c.name == name).values(values))
        connection.execute(
            _revisions.insert().values(calendar=name, revision=number, spec=spec, created_at=now, actor=actor)
        )
    except sa.exc.IntegrityError as error:
        raise Conflict(f"calendar {name} was changed by somebody else at the same moment; try again") from error
    action = "calendar.change" if before else "calendar.create"
    audit.record(connection, AuditEntry(now, actor, action, name, before.spec if before else None, spec))
    return CalendarRow(name, number, owner, spec, before.created_at if before else now, now)


def delete(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> None:
    """Remove a calendar; its revisions stay."""
    connection.execute(_calendars.delete().where(_calendars.c.name == row.name))
    audit.record(connection, AuditEntry(now, actor, "calendar.delete", row.name, row.spec, None))


def users(connection: sa.Connection, calendar: str) -> list[ScheduleRow]:
    """The schedules that name this calendar, locked, in the order of their ids."""
    query = (
        sa.select(_schedules).join(_uses, _uses.c.schedule_id == _schedules.c.id).where(_uses.c.calendar == calendar)
    )
    rows = connection.execute(query.order_by(_schedules.c.id).with_for_update(of=_schedules))
    return list(unreadable.those(rows, schedules.to_row))


def _next_revision(connection: sa.Connection, name: str) -> int:
    highest = connection.scalar(sa.select(sa.func.max(_revisions.c.revision)).where(_revisions.c.calendar == name))
    return (highest or 0) + 1


_SPEC = unreadable.has(kind=str)


def _what(row: Any) -> str:
    return f"calendar {row.name}"


def _what_revision(row: Any) -> str:
    return f"revision {row.revision} of calendar {row.calendar}"


def _require_spec(row: sa.Row[Any]) -> None:
    if not _SPEC(row.spec):
        raise TypeError("spec is no calendar")


def _make(row: sa.Row[Any]) -> CalendarRow:
    _require_spec(row)
    return CalendarRow(**{**row._mapping, "owner": Owner(row.owner)})


def _make_revision(row: sa.Row[Any]) -> CalendarRevision:
    _require_spec(row)
    return CalendarRevision(**row._mapping)


_to_row = unreadable.reader(_what, _make, _calendars)
_to_revision = unreadable.reader(_what_revision, _make_revision, _revisions)
