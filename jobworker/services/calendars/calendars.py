"""Queries of calendars and their revisions, and the cache of parsed calendars for timetables."""

import datetime as dt
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.calendars.calendar_parser import parse
from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar, TimeRange
from jobworker.domain.errors import CalendarNotFound, FieldError, RevisionNotFound, UnreadableRow, format_pointer
from jobworker.domain.executions import comparison
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.schedule import Schedule
from jobworker.services import lookup
from jobworker.store import unreadable_rows
from jobworker.store.calendars import calendar_rows
from jobworker.store.calendars.calendar_rows import CalendarRevisionRow, CalendarRow
from jobworker.store.database.database import Database
from jobworker.store.pagination import DEFAULT_LIMIT, Page

#: Maximum revision number that databases can store.
_MAX_REVISION = 2**31 - 1

#: Maximum number of parsed calendars cached per database; a full cache is cleared.
_CACHE_SIZE = 500

#: Parsed calendars by database and name, each with its revision and the time of that revision.
_cache: weakref.WeakKeyDictionary[sa.Engine, dict[str, tuple[tuple[int, dt.datetime], Calendar]]]
_cache = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class CalendarRevisionView:
    """A revision of a calendar, and JSON pointers to the changed fields; None for the first revision."""

    row: CalendarRevisionRow
    changed_fields: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """A day in a calendar: its name, if any, and the time ranges that the calendar includes."""

    day: dt.date
    name: str | None
    parts: Sequence[TimeRange]


def load_calendars(connection: sa.Connection, names: Collection[str], lock: bool = False) -> Mapping[str, Calendar]:
    """Return calendars by name. Raises `CalendarNotFound` with similar names, or `UnreadableRow`.

    `lock` keeps the calendars from being changed or removed before the transaction ends; needed to save a schedule.
    """
    if not names:
        return {}
    current = calendar_rows.get_current_revisions(connection, names, lock)
    missing = [name for name in names if name not in current]
    if missing:
        raise make_not_found_error(connection, *missing)
    kept = _cache.setdefault(connection.engine, {})
    calendars = {name: kept[name][1] for name in names if name in kept and kept[name][0] == current[name]}
    for row in (
        calendar_rows.get_many(connection, current.keys() - calendars.keys()).values()
        if len(calendars) < len(current)
        else ()
    ):
        with unreadable_rows.convert_errors(f"calendar {row.name}"):
            calendars[row.name] = parse(row.spec)
        if len(kept) >= _CACHE_SIZE:
            kept.clear()
        kept[row.name] = (row.revision, row.changed_at), calendars[row.name]
    broken = [name for name in names if name not in calendars]
    if broken:
        raise UnreadableRow(f"calendar {broken[0]} cannot be read; /readyz shows the reason")
    return calendars


def validate_schedule_calendars(connection: sa.Connection, schedule: Schedule, location: str = "") -> list[FieldError]:
    """Return the problems of the calendars that a schedule names, with their pointers."""
    places = {format_pointer("calendar"): schedule.calendar} if schedule.calendar else {}
    for field in ("require", "exclude"):
        places |= {format_pointer(field, at): name for at, name in enumerate(getattr(schedule, field))}
    revisions = calendar_rows.get_current_revisions(connection, schedule.calendar_names)
    problems = []
    for place, name in places.items():
        if name not in revisions:
            problems.append(
                FieldError(location + place, "unknown_calendar", make_not_found_error(connection, name).detail)
            )
    counted = schedule.calendar if isinstance(schedule.rule, BusinessDayRule) else None
    if counted in revisions and not isinstance(load_calendars(connection, [counted])[counted], BusinessCalendar):
        message = f"calendar {counted} lists dates; business days are counted by a calendar of kind business"
        problems.append(FieldError(location + "/calendar", "not_allowed", message))
    return problems


def get(database: Database, name: str) -> CalendarRow:
    """Return a calendar. Raises `CalendarNotFound`."""
    with database.read() as connection:
        return find(connection, name)


def find(connection: sa.Connection, name: str, lock: bool = False) -> CalendarRow:
    """Return the calendar with this name. Raises `CalendarNotFound` with similar names."""
    row = calendar_rows.get(connection, name, lock) if name.isprintable() else None
    if row is None:
        raise make_not_found_error(connection, name)
    return row


def list_days(database: Database, name: str, first: dt.date, count: int) -> list[CalendarDay]:
    """Return those of `count` days that the calendar includes or has names for. Raises `CalendarNotFound`."""
    with database.read() as connection:
        calendar = load_calendars(connection, [name])[name]
    dates = (first + dt.timedelta(days=number) for number in range(count))
    days = (CalendarDay(date, calendar.find_day_name(date), calendar.get_time_ranges(date)) for date in dates)
    return [day for day in days if day.parts or day.name]


def list_page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[CalendarRow]:
    """Return a page of calendars, sorted by name."""
    with database.read() as connection:
        return calendar_rows.list_page(connection, limit, cursor)


def list_revisions(
    database: Database, name: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[CalendarRevisionView]:
    """Return the revisions of a calendar, the latest first, also of a removed one. Raises `CalendarNotFound`."""
    with database.read() as connection:
        if not name.isprintable():
            raise make_not_found_error(connection, name)
        page = calendar_rows.list_revisions(connection, name, limit, cursor)
        if not page.items:
            find(connection, name)
            return page.replace_items([])
        before = calendar_rows.get_revision(connection, name, page.items[-1].revision - 1)
    older = [*page.items[1:], before]
    return page.replace_items([_to_revision_view(row, was) for row, was in zip(page.items, older, strict=True)])


def get_revision(database: Database, name: str, number: int) -> CalendarRevisionView:
    """Return a revision of a calendar. Raises `CalendarNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = (
            calendar_rows.get_revision(connection, name, number)
            if number <= _MAX_REVISION and name.isprintable()
            else None
        )
        if row is None:
            latest = find(connection, name).revision
            raise RevisionNotFound(f"calendar {name} has no revision {number}; the latest is {latest}")
        return _to_revision_view(row, calendar_rows.get_revision(connection, name, number - 1))


def _to_revision_view(row: CalendarRevisionRow, before: CalendarRevisionRow | None) -> CalendarRevisionView:
    if before is None:
        return CalendarRevisionView(row, None)
    return CalendarRevisionView(
        row, [difference.pointer for difference in comparison.compare_values("spec", before.spec, row.spec)]
    )


def make_not_found_error(connection: sa.Connection, *names: str) -> CalendarNotFound:
    """Return the error for calendars that do not exist."""
    return CalendarNotFound(
        "; ".join(_describe_unknown(name, calendar_rows.list_nearby_names(connection, name)) for name in names)
    )


def _describe_unknown(name: str, neighbors: Sequence[str]) -> str:
    if not neighbors:
        return f"there is no calendar {name[:128]!r}, and no other yet; POST /api/v1/calendars creates one"
    return lookup.describe_unknown("calendar", name, neighbors, "GET /api/v1/calendars")
