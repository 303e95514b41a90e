"""Calendars as they stand and as they were; the values that timetables are made with."""

import datetime as dt
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain import differences
from jobworker.domain.calendar_reading import parse
from jobworker.domain.calendars import Business, Calendar, Hours
from jobworker.domain.errors import CalendarNotFound, FieldError, RevisionNotFound, UnreadableRow, pointer
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.schedule import Schedule
from jobworker.services import naming
from jobworker.store import calendars, unreadable
from jobworker.store.calendars import CalendarRevision, CalendarRow
from jobworker.store.database import Database
from jobworker.store.pages import DEFAULT_LIMIT, Page

#: Databases keep no higher number.
_HIGHEST = 2**31 - 1

#: So many calendars of a database are kept as values; then all are forgotten, and those in use come back.
_MOST_KEPT = 500

#: By database and name: the revision, since when it is current, and the calendar.
_kept: weakref.WeakKeyDictionary[sa.Engine, dict[str, tuple[tuple[int, dt.datetime], Calendar]]]
_kept = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Changed:
    """A revision of a calendar, and JSON pointers to what it changed; None for the first."""

    row: CalendarRevision
    changed_fields: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """A day in a calendar: its name if it has one, and its times that the calendar holds."""

    day: dt.date
    name: str | None
    parts: Sequence[Hours]


def known(connection: sa.Connection, names: Collection[str], lock: bool = False) -> Mapping[str, Calendar]:
    """The calendars of these names; raises `CalendarNotFound` with the names that come close, or `UnreadableRow`.

    Whoever enters a schedule takes them with `lock`: then none is removed, or changed, before that transaction ends.
    """
    if not names:
        return {}
    current = calendars.current(connection, names, lock)
    missing = [name for name in names if name not in current]
    if missing:
        raise not_found(connection, *missing)
    kept = _kept.setdefault(connection.engine, {})
    found = {name: kept[name][1] for name in names if name in kept and kept[name][0] == current[name]}
    for row in calendars.some(connection, current.keys() - found.keys()).values() if len(found) < len(current) else ():
        with unreadable.reading(f"calendar {row.name}"):
            found[row.name] = parse(row.spec)
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[row.name] = (row.revision, row.changed_at), found[row.name]
    broken = [name for name in names if name not in found]
    if broken:
        raise UnreadableRow(f"calendar {broken[0]} cannot be read; /readyz says why")
    return found


def problems(connection: sa.Connection, schedule: Schedule, where: str = "") -> list[FieldError]:
    """What is wrong with the calendars that a schedule names, place by place."""
    places = {pointer("calendar"): schedule.calendar} if schedule.calendar else {}
    for field in ("require", "exclude"):
        places |= {pointer(field, at): name for at, name in enumerate(getattr(schedule, field))}
    there = calendars.current(connection, schedule.calendar_names)
    found = []
    for place, name in places.items():
        if name not in there:
            found.append(FieldError(where + place, "unknown_calendar", not_found(connection, name).detail))
    counted = schedule.calendar if isinstance(schedule.rule, BusinessDay) else None
    if counted in there and not isinstance(known(connection, [counted])[counted], Business):
        message = f"calendar {counted} lists dates; business days are counted by a calendar of kind business"
        found.append(FieldError(where + "/calendar", "not_allowed", message))
    return found


def get(database: Database, name: str) -> CalendarRow:
    """One calendar; raises `CalendarNotFound`."""
    with database.read() as connection:
        return find(connection, name)


def find(connection: sa.Connection, name: str, lock: bool = False) -> CalendarRow:
    """The calendar of this name; raises `CalendarNotFound` with the names that come close."""
    row = calendars.get(connection, name, lock) if name.isprintable() else None
    if row is None:
        raise not_found(connection, name)
    return row


def days(database: Database, name: str, first: dt.date, count: int) -> list[CalendarDay]:
    """What the calendar says about `count` days: those that it holds, or has names for. Raises `CalendarNotFound`."""
    with database.read() as connection:
        calendar = known(connection, [name])[name]
    some = (first + dt.timedelta(days=number) for number in range(count))
    found = (CalendarDay(day, calendar.find_day_name(day), calendar.get_time_ranges(day)) for day in some)
    return [each for each in found if each.parts or each.name]


def page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[CalendarRow]:
    """Calendars by name."""
    with database.read() as connection:
        return calendars.page(connection, limit, cursor)


def revisions(database: Database, name: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Changed]:
    """The revisions of a calendar, the latest first; they outlive it. Raises `CalendarNotFound`."""
    with database.read() as connection:
        if not name.isprintable():
            raise not_found(connection, name)
        found = calendars.revisions(connection, name, limit, cursor)
        if not found.items:
            find(connection, name)
            return found.replace_items([])
        before = calendars.revision_row(connection, name, found.items[-1].revision - 1)
    older = [*found.items[1:], before]
    return found.replace_items([_changed(one, was) for one, was in zip(found.items, older, strict=True)])


def revision(database: Database, name: str, number: int) -> Changed:
    """One revision; raises `CalendarNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = calendars.revision_row(connection, name, number) if number <= _HIGHEST and name.isprintable() else None
        if row is None:
            latest = find(connection, name).revision
            raise RevisionNotFound(f"calendar {name} has no revision {number}; the latest is {latest}")
        return _changed(row, calendars.revision_row(connection, name, number - 1))


def _changed(row: CalendarRevision, before: CalendarRevision | None) -> Changed:
    if before is None:
        return Changed(row, None)
    return Changed(row, [each.pointer for each in differences.of_values("spec", before.spec, row.spec)])


def not_found(connection: sa.Connection, *names: str) -> CalendarNotFound:
    """The error for calendars that do not exist."""
    return CalendarNotFound("; ".join(_unknown(name, calendars.names_around(connection, name)) for name in names))


def _unknown(name: str, there: Sequence[str]) -> str:
    if not there:
        return f"there is no calendar {name[:128]!r}, nor any other yet: POST /api/v1/calendars makes one"
    return naming.unknown("calendar", name, there, "GET /api/v1/calendars")
