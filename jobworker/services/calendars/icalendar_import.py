"""Import of iCalendar files as calendars of dates."""

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.calendars.calendar_parser import parse
from jobworker.domain.calendars.calendars import DateCalendar
from jobworker.domain.calendars.icalendar import parser
from jobworker.domain.calendars.icalendar.parser import ICalendarContents
from jobworker.domain.errors import CalendarNotFound, FieldError, InvalidInput, PreconditionRequired, ServiceBusy
from jobworker.domain.jobs.definition import JobOwner
from jobworker.domain.schedules.time_zones import get_zone_names, suggest_zone
from jobworker.services.calendars import calendar_changes
from jobworker.services.calendars.calendar_changes import ExpectedRevisions
from jobworker.store.calendars import calendar_rows
from jobworker.store.calendars.calendar_rows import CalendarRow
from jobworker.store.database.database import Database

#: Range of imported events, before and after the time of the import: past ones serve backfills. Later events need
#: another import.
_LOOKBACK = dt.timedelta(days=366)
_LOOKAHEAD = dt.timedelta(days=3660)

#: Maximum number of skipped events that an error message names.
_MAX_EVENTS_SHOWN = 20

#: Lock held while a file is parsed, because parsing takes CPU time and the threads of a process share one interpreter.
_READ_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class CalendarImportRequest:
    """Request to import a file; `zone` None is the file's own.

    `include_free`: events that are marked as free time count, too. `replaces`: the calendar exists and is at one of
    the `expected` revisions (None: any).
    """

    name: str
    file: bytes
    zone: str | None = None
    include_free: bool = False
    dry_run: bool = False
    replaces: bool = False
    expected: ExpectedRevisions = None


@dataclass(frozen=True, slots=True)
class CalendarImportResult:
    """Result of an import: contents of the file, and the calendar after it; in a dry run, the one before (or None)."""

    contents: ICalendarContents
    first: dt.date
    end: dt.date
    spec: Mapping[str, Any]
    row: CalendarRow | None
    created: bool
    changed: bool


def import_calendar(
    database: Database, clock: Clock, request: CalendarImportRequest, actor: str
) -> CalendarImportResult:
    """Create a calendar from the dates of a file, or replace the dates of a calendar; its holidays are kept.

    A dry run also returns the contents of a file without usable events, with the skipped ones. Raises `InvalidInput`
    with everything that cannot be read, `ServiceBusy` while another file is read, and the errors of
    `calendar_changes.lock_for_change` and `calendar_changes.save`.
    """
    _check_request(request)
    now = clock.now()
    first, end = (now - _LOOKBACK).date(), (now + _LOOKAHEAD).date()
    with _hold_read_lock():
        contents = parser.parse(request.file, request.zone, first, end, request.include_free)
    if not contents.days and not contents.windows and not request.dry_run:
        message = f"the calendar would be empty: {_explain_empty(contents)}"
        raise InvalidInput(message, [FieldError("", "empty", message)])
    with database.write() as connection:
        before = _lock_current(connection, request)
        calendar = replace(_parse_dates(before), days=contents.days, windows=contents.windows)
        spec = calendar.to_json()
        changed = before is None or before.spec != spec
        row = before
        if not request.dry_run:
            row = calendar_changes.save(connection, request.name, calendar, JobOwner.API, actor, now)
    return CalendarImportResult(contents, first, end, spec, row, before is None, changed)


@contextlib.contextmanager
def _hold_read_lock() -> Iterator[None]:
    """Hold the lock that lets one file be parsed at a time. Raises `ServiceBusy`."""
    if not _READ_LOCK.acquire(blocking=False):
        raise ServiceBusy("another iCalendar file is being read; repeat this import in a moment")
    try:
        yield
    finally:
        _READ_LOCK.release()


def _explain_empty(contents: ICalendarContents) -> str:
    """Return the reason why a file contains no usable events."""
    if not contents.left_out:
        return "the file has no events (VEVENT)"
    descriptions = [
        f"{event.name!r} (UID {event.uid}): {event.reason}" for event in contents.left_out[:_MAX_EVENTS_SHOWN]
    ]
    more = (
        f"; and {len(contents.left_out) - len(descriptions)} more" if len(contents.left_out) > len(descriptions) else ""
    )
    return f"nothing of the file's {contents.events} events is left; {'; '.join(descriptions)}{more}"


def _check_request(request: CalendarImportRequest) -> None:
    calendar_changes.check_name(request.name)
    if request.zone is not None and request.zone not in get_zone_names():
        message = f"{request.zone[:100]!r} is not an IANA time zone; {suggest_zone(request.zone[:100])}"
        raise InvalidInput(message, [FieldError("zone", "unknown_zone", message)])


def _lock_current(connection: sa.Connection, request: CalendarImportRequest) -> CalendarRow | None:
    """Lock and return the calendar to replace; None if it does not exist. Raises if `request` does not allow that."""
    if calendar_rows.get(connection, request.name, lock=True) is None:
        if request.replaces:
            raise CalendarNotFound(f"there is no calendar {request.name!r} to replace; omit If-Match to create it")
        return None
    if not request.replaces and not request.dry_run:
        message = f"calendar {request.name} is there already: send If-Match with its ETag to replace what it lists"
        raise PreconditionRequired(message)
    row = calendar_changes.lock_for_change(connection, request.name, request.expected)
    if row.spec["kind"] != DateCalendar.kind:
        message = f"calendar {request.name} is of kind {row.spec['kind']}; events make one of kind {DateCalendar.kind}"
        raise InvalidInput(message, [FieldError("name", "not_allowed", message)])
    return row


def _parse_dates(before: CalendarRow | None) -> DateCalendar:
    calendar = parse(before.spec) if before else DateCalendar()
    assert isinstance(calendar, DateCalendar), "others are refused"
    return calendar
