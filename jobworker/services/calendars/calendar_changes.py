"""Changes of calendars: create, change, remove; the next times of the schedules that use them are recomputed."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.calendars.calendar_parser import parse
from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar
from jobworker.domain.errors import (
    CalendarExists,
    CalendarInUse,
    CalendarOwnedByCode,
    FieldError,
    InvalidInput,
    PreconditionFailed,
    raise_for_problems,
)
from jobworker.domain.jobs.definition import NAME_PATTERN, JobOwner
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.schedule import Schedule, ScheduleState
from jobworker.domain.schedules.state import compute_state, has_reached_max_runs
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.services.calendars import calendars as values
from jobworker.services.schedules import evaluator
from jobworker.store.calendars import calendar_rows
from jobworker.store.calendars.calendar_rows import CalendarRow
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: The revisions that a change may replace; None: any.
ExpectedRevisions = Collection[int] | None

#: Maximum number of schedules named in the error about a calendar in use.
_MAX_NAMES_SHOWN = 20


def create(database: Database, clock: Clock, spec: Mapping[str, Any], actor: str) -> CalendarRow:
    """Create a calendar. Raises `CalendarExists`, and `InvalidInput` with all problems of the specification."""
    name, calendar = _parse_named_calendar(spec)
    with database.write() as connection:
        if calendar_rows.get(connection, name):
            raise CalendarExists(f"calendar {name} exists already; change it with PUT and If-Match")
        return save(connection, name, calendar, JobOwner.API, actor, clock.now())


def change(
    database: Database, clock: Clock, name: str, spec: Mapping[str, Any], expected: ExpectedRevisions, actor: str
) -> CalendarRow:
    """Replace a calendar if its current revision is one of the expected ones.

    Occurrences that are due by now are evaluated with the old calendar, later ones with the new one.
    """
    if spec.get("name", name) != name:
        message = f"name is {spec['name']!r}, but the name in the URL is {name}; a calendar cannot be renamed"
        raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
    with database.write() as connection:
        lock_for_change(connection, name, expected)
        _, calendar = _parse_named_calendar({**spec, "name": name})
        return save(connection, name, calendar, JobOwner.API, actor, clock.now())


def remove(database: Database, clock: Clock, name: str, expected: ExpectedRevisions, actor: str) -> None:
    """Remove a calendar that no schedule names; its revisions are kept. Raises `CalendarInUse`."""
    with database.write() as connection:
        delete_unused(connection, lock_for_change(connection, name, expected), actor, clock.now())


def save(
    connection: sa.Connection, name: str, calendar: Calendar, owner: JobOwner, actor: str, now: dt.datetime
) -> CalendarRow:
    """Insert or update the calendar, and recompute the next times of the schedules that name it.

    Raises `CalendarInUse` if schedules count business days by the calendar and its new version has none.
    """
    before, spec = calendar_rows.get(connection, name, lock=True), calendar.to_json()
    if before is None or before.spec == spec:
        return calendar_rows.upsert(connection, name, spec, owner, actor, now)
    users = calendar_rows.lock_using_schedules(connection, name)
    counting = [
        row for row in users if row.schedule.calendar == name and isinstance(row.schedule.rule, BusinessDayRule)
    ]
    if counting and not isinstance(calendar, BusinessCalendar):
        names = _format_names(counting)
        message = f"calendar {name} cannot become a list of dates: business days are counted by it in {names}"
        raise CalendarInUse(message)
    evaluated_rows = [evaluator.evaluate_now(connection, row, now) if _is_due(row, now) else row for row in users]
    changed = calendar_rows.upsert(connection, name, spec, owner, actor, now)
    _update_next_times(connection, evaluated_rows, now)
    return changed


def delete_unused(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> None:
    """Delete a calendar that no schedule names. Raises `CalendarInUse`."""
    users = calendar_rows.lock_using_schedules(connection, row.name)
    if users:
        them = "it" if len(users) == 1 else "them"
        message = f"calendar {row.name} is named by {_format_names(users)}; change or delete {them} first"
        raise CalendarInUse(message)
    calendar_rows.delete(connection, row, actor, now)


def lock_for_change(connection: sa.Connection, name: str, expected: ExpectedRevisions) -> CalendarRow:
    """Lock and return a calendar that may be changed over the API and whose revision is an expected one."""
    row = values.find(connection, name, lock=True)
    if expected is not None and row.revision not in expected:
        message = f"calendar {name} is at revision {row.revision} now; read it again, then repeat the change"
        raise PreconditionFailed(message)
    if row.owner is JobOwner.CODE:
        raise CalendarOwnedByCode(f"calendar {name} is declared in code; change it there (schedules/*.py)")
    return row


def check_name(name: object, location: str = "/name") -> None:
    """Raise `InvalidInput` if the name is not allowed for a calendar."""
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        message = "name must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"
        raise InvalidInput(message, [FieldError(location, "not_allowed", message)])


def _parse_named_calendar(spec: Mapping[str, Any]) -> tuple[str, Calendar]:
    """Return the name and the calendar. Raises `InvalidInput` with all problems of both."""
    name, problems = spec.get("name"), list[FieldError]()
    try:
        check_name(name)
    except InvalidInput as error:
        problems.extend(error.errors)
    try:
        calendar = parse({field: value for field, value in spec.items() if field != "name"})
    except InvalidInput as error:
        problems.extend(error.errors)
    raise_for_problems(problems)
    return str(name), calendar


def _is_due(row: ScheduleRow, now: dt.datetime) -> bool:
    return row.next_at is not None and row.next_at <= now


def _update_next_times(connection: sa.Connection, rows: Sequence[ScheduleRow], now: dt.datetime) -> None:
    """Recompute the next times of schedules by business days; excluded days are evaluated when they are due."""
    moving = [(row, schedule) for row in rows if _depends_on_business_days(row, schedule := row.schedule)]
    calendar_names = {name for _, schedule in moving for name in schedule.calendar_names}
    calendars = values.load_calendars(connection, calendar_names)
    changes: dict[str, tuple[dt.datetime | None, ScheduleState]] = {}
    for row, schedule in moving:
        next_at = find_next_time(schedule.build_timetable(calendars), max(now, row.settled_until))
        changes[row.id] = next_at, compute_state(schedule, row.runs, next_at)
    schedule_rows.update_next_due(connection, changes, now)


def _depends_on_business_days(row: ScheduleRow, schedule: Schedule) -> bool:
    ended = row.state is ScheduleState.RETIRED or has_reached_max_runs(schedule, row.runs)
    return not ended and isinstance(schedule.rule, BusinessDayRule)


def _format_names(rows: Sequence[ScheduleRow]) -> str:
    names = sorted(row.name for row in rows)
    more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return f"{'schedule' if len(names) == 1 else 'schedules'} {', '.join(names[:_MAX_NAMES_SHOWN])}{more}"
