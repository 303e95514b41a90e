"""Cache of compiled schedules: each revision is parsed once, because evaluating 10,000 leaves no time to parse."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
import structlog

from jobworker.domain.calendars.calendars import Calendar
from jobworker.domain.errors import InvalidInput
from jobworker.domain.schedules.schedule import Schedule, load_schedule
from jobworker.domain.schedules.timetable import Timetable
from jobworker.services.calendars import calendars as calendar_services
from jobworker.store import unreadable_rows
from jobworker.store.calendars import calendar_rows
from jobworker.store.schedules import due_schedules

logger = structlog.get_logger(__name__)

#: Maximum number of cached schedules (a few KB each).
_CACHE_SIZE = 20_000

#: Errors of reading invalid content of SQL.
_READ_ERRORS = (InvalidInput, *unreadable_rows.READ_ERRORS)

#: Errors of computing next times if a rule or calendar is invalid although it could be parsed.
EVALUATION_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError)


class ScheduleIdentity(Protocol):
    """The fields of a schedule that identify its compiled form."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CompiledSchedule:
    """A revision of a schedule, the calendars that it names, and its timetable."""

    revision: int
    schedule: Schedule
    calendars: Mapping[str, Calendar]
    timetable: Timetable


_cache: dict[str, CompiledSchedule] = {}

#: Unreadable schedules, by id and revision; each is logged once.
_unreadable_revisions: set[tuple[str, int]] = set()


def compile_schedules(connection: sa.Connection, rows: Sequence[ScheduleIdentity]) -> dict[str, CompiledSchedule]:
    """Return the compiled schedules by id. An unreadable schedule is logged and left out."""
    schedules = _parse_schedules(connection, rows)
    calendar_names = {name for schedule in schedules.values() for name in schedule.calendar_names}
    calendars = _load_calendars(connection, calendar_names) if calendar_names else {}
    compiled_schedules: dict[str, CompiledSchedule] = {}
    for row in rows:
        schedule = schedules.get(row.id)
        if schedule is None:
            continue
        plan = _compile_schedule(row, schedule, calendars)
        if plan is not None:
            compiled_schedules[row.id] = plan
    return compiled_schedules


def count_unreadable() -> int:
    """Return the number of unreadable schedules (by revision) since the start of the process."""
    return len(_unreadable_revisions)


def report_unreadable(row: ScheduleIdentity, error: Exception) -> None:
    """Log a schedule that cannot be evaluated, once per revision, and record it as a problem for `/readyz`."""
    if (row.id, row.revision) not in _unreadable_revisions:
        _unreadable_revisions.add((row.id, row.revision))
        logger.error("schedule_unreadable", schedule=row.name, revision=row.revision, error=repr(error))
    unreadable_rows.problem_log.add(f"schedule {row.name}", repr(error))


def _parse_schedules(connection: sa.Connection, rows: Sequence[ScheduleIdentity]) -> dict[str, Schedule]:
    """Return the parsed schedules by id, from the cache if it has the current revision."""
    schedules = {row.id: plan.schedule for row in rows if (plan := _get_cached(row)) is not None}
    new = [row for row in rows if row.id not in schedules]
    specs = due_schedules.get_specs(connection, [row.id for row in new]) if new else {}
    for row in new:
        try:
            schedules[row.id] = _check_calendar_names(load_schedule(specs[row.id]))
        except _READ_ERRORS as error:
            report_unreadable(row, error)
    return schedules


def _check_calendar_names(schedule: Schedule) -> Schedule:
    """Return the schedule if its calendar names are strings: the query for many calendars relies on that."""
    if not all(isinstance(name, str) for name in schedule.calendar_names):
        raise TypeError(f"calendars are named {list(schedule.calendar_names)!r}"[:200])
    return schedule


def _load_calendars(connection: sa.Connection, names: Collection[str]) -> Mapping[str, Calendar]:
    """Return those calendars that exist and can be read; an unchanged calendar is returned as an identical object."""
    revisions = calendar_rows.get_current_revisions(connection, names)
    try:
        return calendar_services.load_calendars(connection, revisions)
    except _READ_ERRORS:
        calendars: dict[str, Calendar] = {}
        for name in revisions:
            with contextlib.suppress(*_READ_ERRORS):
                calendars.update(calendar_services.load_calendars(connection, [name]))
        return calendars


def _compile_schedule(
    row: ScheduleIdentity, schedule: Schedule, calendars: Mapping[str, Calendar]
) -> CompiledSchedule | None:
    cached = _get_cached(row)
    try:
        used_calendars = {name: calendars[name] for name in schedule.calendar_names}
        if cached is not None and all(cached.calendars[name] is used_calendars[name] for name in used_calendars):
            return cached
        plan = CompiledSchedule(row.revision, schedule, used_calendars, schedule.build_timetable(used_calendars))
    except _READ_ERRORS as error:
        report_unreadable(row, error)
        return None
    _cache.pop(row.id, None)
    _cache[row.id] = plan
    if len(_cache) > _CACHE_SIZE:
        del _cache[next(iter(_cache))]
    return plan


def _get_cached(row: ScheduleIdentity) -> CompiledSchedule | None:
    plan = _cache.get(row.id)
    return plan if plan is not None and plan.revision == row.revision else None
