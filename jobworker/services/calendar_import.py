"""iCalendar files become calendars of dates."""

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import icalendar_reading
from jobworker.domain.calendar_reading import parse
from jobworker.domain.calendars import Dates
from jobworker.domain.errors import Busy, CalendarNotFound, FieldError, InvalidInput, PreconditionRequired
from jobworker.domain.icalendar_reading import Contents
from jobworker.domain.job import Owner
from jobworker.domain.zones import hint, known_zones
from jobworker.services import calendar_editing
from jobworker.services.calendar_editing import Expected
from jobworker.store import calendars
from jobworker.store.calendars import CalendarRow
from jobworker.store.database import Database

#: Events are taken from so long ago, for backfills, to so far ahead. Who needs more imports again some year.
_BEFORE = dt.timedelta(days=366)
_AHEAD = dt.timedelta(days=3660)

#: Events that an error message names which add nothing.
_MOST_NAMED = 20

#: Held while a file is read: that is CPU time, and the threads of a process share one interpreter.
_READING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to be read: `zone` None is the file's own.

    `include_free`: events that are marked as free time count, too.
    Who `replaces` a calendar knows one of the `expected` revisions (None: whichever is current).
    """

    name: str
    file: bytes
    zone: str | None = None
    include_free: bool = False
    dry_run: bool = False
    replaces: bool = False
    expected: Expected = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it: the contents of the file, and the calendar as it is now; in a dry run, as it was (or None)."""

    contents: Contents
    first: dt.date
    end: dt.date
    spec: Mapping[str, Any]
    row: CalendarRow | None
    created: bool
    changed: bool


def run(database: Database, clock: Clock, asked: Asked, actor: str) -> Imported:
    """Make a calendar of what the file lists, or let it replace what a calendar lists; holidays stay.

    A dry run also shows a file that lists nothing, with what was left out. Raises `InvalidInput` with everything that
    cannot be read, `Busy` while another file is read, and what `calendar_editing.change` raises.
    """
    _check(asked)
    now = clock.now()
    first, end = (now - _BEFORE).date(), (now + _AHEAD).date()
    with _reading():
        contents = icalendar_reading.read(asked.file, asked.zone, first, end, asked.include_free)
    if not contents.days and not contents.windows and not asked.dry_run:
        message = f"the calendar would be empty: {_emptiness(contents)}"
        raise InvalidInput(message, [FieldError("", "empty", message)])
    with database.write() as connection:
        before = _current(connection, asked)
        calendar = replace(_dates(before), days=contents.days, windows=contents.windows)
        spec = calendar.to_json()
        changed = before is None or before.spec != spec
        row = before
        if not asked.dry_run:
            row = calendar_editing.put(connection, asked.name, calendar, Owner.API, actor, now)
    return Imported(contents, first, end, spec, row, before is None, changed)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Let one file be read at a time; raises `Busy`."""
    if not _READING.acquire(blocking=False):
        raise Busy("another iCalendar file is being read; repeat this import in a moment")
    try:
        yield
    finally:
        _READING.release()


def _emptiness(contents: Contents) -> str:
    """Return why a file lists nothing."""
    if not contents.left_out:
        return "the file has no events (VEVENT)"
    named = [f"{each.name!r} (UID {each.uid}): {each.reason}" for each in contents.left_out[:_MOST_NAMED]]
    more = f"; and {len(contents.left_out) - len(named)} more" if len(contents.left_out) > len(named) else ""
    return f"nothing of the file's {contents.events} events is left; {'; '.join(named)}{more}"


def _check(asked: Asked) -> None:
    calendar_editing.check_name(asked.name)
    if asked.zone is not None and asked.zone not in known_zones():
        message = f"{asked.zone[:100]!r} is not an IANA time zone; {hint(asked.zone[:100])}"
        raise InvalidInput(message, [FieldError("zone", "unknown_zone", message)])


def _current(connection: sa.Connection, asked: Asked) -> CalendarRow | None:
    """The calendar, if there is one: then the caller must have said which revision is to be replaced."""
    if calendars.get(connection, asked.name, lock=True) is None:
        if asked.replaces:
            raise CalendarNotFound(f"there is no calendar {asked.name!r} to replace; without If-Match it is made")
        return None
    if not asked.replaces and not asked.dry_run:
        message = f"calendar {asked.name} is there already: send If-Match with its ETag to replace what it lists"
        raise PreconditionRequired(message)
    row = calendar_editing.expect(connection, asked.name, asked.expected)
    if row.spec["kind"] != Dates.kind:
        message = f"calendar {asked.name} is of kind {row.spec['kind']}; events make one of kind {Dates.kind}"
        raise InvalidInput(message, [FieldError("name", "not_allowed", message)])
    return row


def _dates(before: CalendarRow | None) -> Dates:
    calendar = parse(before.spec) if before else Dates()
    assert isinstance(calendar, Dates), "others are refused"
    return calendar
