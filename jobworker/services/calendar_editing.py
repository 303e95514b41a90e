"""Calendars are created, changed and removed; the schedules that name them follow."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import admission
from jobworker.domain.calendar_reading import parse
from jobworker.domain.calendars import Business, Calendar
from jobworker.domain.errors import (
    CalendarExists,
    CalendarInUse,
    CalendarOwnedByCode,
    FieldError,
    InvalidInput,
    PreconditionFailed,
)
from jobworker.domain.job import NAME, Owner
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.schedule import Schedule, State
from jobworker.domain.timetable import next_after
from jobworker.services import calendars as values
from jobworker.services import firing
from jobworker.store import calendars, schedules
from jobworker.store.calendars import CalendarRow
from jobworker.store.database import Database
from jobworker.store.schedules import ScheduleRow

#: The revisions that a change may replace; None: whichever is current.
Expected = Collection[int] | None

#: So many schedules are named to somebody who cannot remove their calendar.
_MOST_NAMED = 20


def create(database: Database, clock: Clock, described: Mapping[str, Any], actor: str) -> CalendarRow:
    """Add a calendar; raises `CalendarExists`, and `InvalidInput` with everything that is wrong with it."""
    name, calendar = _read(described)
    with database.write() as connection:
        if calendars.get(connection, name):
            raise CalendarExists(f"calendar {name} exists already; change it with PUT and If-Match")
        return put(connection, name, calendar, Owner.API, actor, clock.now())


def change(
    database: Database, clock: Clock, name: str, described: Mapping[str, Any], expected: Expected, actor: str
) -> CalendarRow:
    """Replace a calendar, if its current revision is one of those expected.

    What is due by now is settled as the calendar was; afterwards it is as it is described.
    """
    if described.get("name", name) != name:
        message = f"name is {described['name']!r}, but the URL says {name}; a calendar cannot be renamed"
        raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
    with database.write() as connection:
        expect(connection, name, expected)
        _, calendar = _read({**described, "name": name})
        return put(connection, name, calendar, Owner.API, actor, clock.now())


def remove(database: Database, clock: Clock, name: str, expected: Expected, actor: str) -> None:
    """Remove a calendar that no schedule names; its revisions stay. Raises `CalendarInUse`."""
    with database.write() as connection:
        delete(connection, expect(connection, name, expected), actor, clock.now())


def put(
    connection: sa.Connection, name: str, calendar: Calendar, owner: Owner, actor: str, now: dt.datetime
) -> CalendarRow:
    """Insert the calendar or change it, and let the schedules follow that name it.

    Raises `CalendarInUse` if some count business days by it, and it would have none any more.
    """
    before, spec = calendars.get(connection, name, lock=True), calendar.to_json()
    if before is None or before.spec == spec:
        return calendars.put(connection, name, spec, owner, actor, now)
    users = calendars.users(connection, name)
    counting = [row for row in users if row.schedule.calendar == name and isinstance(row.schedule.rule, BusinessDay)]
    if counting and not isinstance(calendar, Business):
        message = (
            f"calendar {name} cannot become a list of dates: business days are counted by it in {_named(counting)}"
        )
        raise CalendarInUse(message)
    settled = [firing.settle_now(connection, row, now) if _is_due(row, now) else row for row in users]
    changed = calendars.put(connection, name, spec, owner, actor, now)
    _follow(connection, settled, now)
    return changed


def delete(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> None:
    """Remove a calendar that no schedule names. Raises `CalendarInUse`."""
    users = calendars.users(connection, row.name)
    if users:
        them = "it" if len(users) == 1 else "them"
        message = f"calendar {row.name} is named by {_named(users)}; change or delete {them} first"
        raise CalendarInUse(message)
    calendars.delete(connection, row, actor, now)


def expect(connection: sa.Connection, name: str, expected: Expected) -> CalendarRow:
    """The calendar, if it may be changed over the API, by somebody who knows its current revision."""
    row = values.find(connection, name, lock=True)
    if expected is not None and row.revision not in expected:
        message = f"calendar {name} is at revision {row.revision} now; read it again, then repeat the change"
        raise PreconditionFailed(message)
    if row.owner is Owner.CODE:
        raise CalendarOwnedByCode(f"calendar {name} is declared in code; change it there (schedules/*.py)")
    return row


def check_name(name: object, where: str = "/name") -> None:
    """Raise `InvalidInput` if no calendar can have this name."""
    if not isinstance(name, str) or not NAME.match(name):
        message = "name must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"
        raise InvalidInput(message, [FieldError(where, "not_allowed", message)])


def _read(described: Mapping[str, Any]) -> tuple[str, Calendar]:
    """The name and the calendar; raises `InvalidInput` with all that is wrong with both."""
    name, problems = described.get("name"), list[FieldError]()
    try:
        check_name(name)
    except InvalidInput as error:
        problems.extend(error.errors)
    try:
        calendar = parse({field: value for field, value in described.items() if field != "name"})
    except InvalidInput as error:
        problems.extend(error.errors)
    admission.refuse(problems)
    return str(name), calendar


def _is_due(row: ScheduleRow, now: dt.datetime) -> bool:
    return row.next_at is not None and row.next_at <= now


def _follow(connection: sa.Connection, rows: Sequence[ScheduleRow], now: dt.datetime) -> None:
    """Work out anew when schedules are due. What their calendars only forbid is seen when it is due."""
    moving = [(row, schedule) for row in rows if _moves(row, schedule := row.schedule)]
    named = {name for _, schedule in moving for name in schedule.calendar_names}
    found = values.known(connection, named)
    coming = {row.id: next_after(schedule.build_timetable(found), max(now, row.settled_until)) for row, schedule in moving}
    schedules.moved(connection, coming, now)


def _moves(row: ScheduleRow, schedule: Schedule) -> bool:
    ended = schedule.max_runs is not None and row.runs >= schedule.max_runs
    return row.state is not State.RETIRED and not ended and isinstance(schedule.rule, BusinessDay)


def _named(rows: Sequence[ScheduleRow]) -> str:
    names = sorted(row.name for row in rows)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{'schedule' if len(names) == 1 else 'schedules'} {', '.join(names[:_MOST_NAMED])}{more}"
