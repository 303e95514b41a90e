"""Preview of a schedule before it is saved: its next occurrences, and the differences from the saved one."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.calendars import calendar_parser
from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar
from jobworker.domain.errors import FieldError, InvalidInput, format_pointer, raise_for_problems
from jobworker.domain.executions import comparison
from jobworker.domain.executions.comparison import Difference
from jobworker.domain.schedules import description, next_times
from jobworker.domain.schedules import schedule as schedule_rules
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.schedule import Schedule
from jobworker.domain.schedules.timetable import Timetable
from jobworker.services import lookup
from jobworker.services.calendars import calendar_changes, calendars
from jobworker.services.schedules import execution_factory, schedules, validation
from jobworker.services.schedules.upcoming import (
    ExpectedOccurrence,
    ExpectedOutcome,
    apply_skip_reason,
    build_start_occurrence,
    list_expected,
)
from jobworker.services.submissions import preparation
from jobworker.store.database.database import Database
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: Maximum number of occurrences in a preview.
MAX_OCCURRENCES = 1000

#: Placeholder for the name and job of a schedule without one.
_PLACEHOLDER = "unnamed"


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    """Request for a preview: a schedule as JSON, whose name and job may be left out.

    `count` occurrences after `after` (None: now) are computed. `calendars` (JSON by name) override the saved ones.
    `saved` names the schedule to compare with.
    """

    spec: Mapping[str, Any]
    count: int
    after: dt.datetime | None = None
    calendars: Mapping[str, Any] = field(default_factory=dict)
    saved: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleComparison:
    """Differences from a saved schedule: changed fields, and nominal times added (`comes`) and removed (`goes`) up to
    `until`; None: without an end. The names are those of the JSON that `jobworker schedules preview` prints.
    """

    row: ScheduleRow
    fields: Sequence[Difference]
    comes: Sequence[dt.datetime]
    goes: Sequence[dt.datetime]
    until: dt.datetime | None


@dataclass(frozen=True, slots=True)
class PreviewResult:
    """Result of a preview: the normalized schedule as JSON, its description, and its next occurrences."""

    schedule: Mapping[str, Any]
    in_words: str
    warnings: Sequence[str]
    moments: Sequence[ExpectedOccurrence]
    compared: ScheduleComparison | None


def preview_schedule(database: Database, clock: Clock, request: PreviewRequest) -> PreviewResult:
    """Preview a schedule. Raises `InvalidInput` with all problems of the schedule."""
    with database.read() as connection:
        saved = schedules.find(connection, request.saved) if request.saved is not None else None
        names = {"name": saved.name, "job": saved.job} if saved else {"name": _PLACEHOLDER, "job": _PLACEHOLDER}
        schedule = schedule_rules.parse({**names, **request.spec})
        inline = _parse_inline_calendars(request.calendars)
        problems = _validate_calendars(connection, schedule, inline)
        if saved or "job" in request.spec:
            problems += validation.validate_job(connection, schedule)
        raise_for_problems(problems)
        lookup.check_queue(connection, schedule.queue, "/queue")
        saved_calendars = calendars.load_calendars(
            connection, [name for name in schedule.calendar_names if name not in inline]
        )
        closed = _get_closed_reason(connection, schedule) if saved or "job" in request.spec else None
        now = clock.now()
        begin, timetable = request.after or now, schedule.build_timetable({**saved_calendars, **inline})
        moments = _list_moments(request, schedule, timetable, saved, now) if schedule.enabled else []
        compared = _compare(connection, saved, schedule, timetable, begin, request.count) if saved else None
    unnamed = {name: None for name in names if saved is None and name not in request.spec}
    warnings = [*_list_warnings(schedule, closed), *next_times.compute_warnings(timetable, begin)]
    shown = [apply_skip_reason(occurrence, closed) for occurrence in moments]
    return PreviewResult(
        {**schedule.to_json(), **unnamed}, description.describe_schedule(schedule), warnings, shown, compared
    )


def _get_closed_reason(connection: sa.Connection, schedule: Schedule) -> str | None:
    return execution_factory.get_blocked_reason(preparation.load_catalog(connection, [schedule.job]), schedule.job)


def _list_warnings(schedule: Schedule, closed_reason: str | None) -> Iterator[str]:
    if not schedule.enabled:
        yield "the schedule is disabled and has no occurrences"
    if closed_reason is not None:
        yield f"{closed_reason}: its occurrences are skipped"


def _list_moments(
    request: PreviewRequest, schedule: Schedule, timetable: Timetable, saved: ScheduleRow | None, now: dt.datetime
) -> list[ExpectedOccurrence]:
    """List the next occurrences. A schedule that is not saved is treated as created now."""
    begin, count = request.after or now, _limit_count(request.count, schedule, saved)
    if saved is None and schedule.initial_delay:
        return list_expected(timetable, max(begin, now + dt.timedelta(seconds=schedule.initial_delay)), count)
    at_once = (
        saved is None
        and request.after is None
        and schedule.run_at_start
        and execution_factory.is_in_bounds(timetable, now)
    )
    first = [build_start_occurrence(timetable, now)] if at_once and count else []
    fires = sum(occurrence.outcome is ExpectedOutcome.FIRE for occurrence in first)
    return [*first, *list_expected(timetable, begin, count - fires)]


def _limit_count(count: int, schedule: Schedule, saved: ScheduleRow | None) -> int:
    if schedule.max_runs is None:
        return count
    return max(0, min(count, schedule.max_runs - (saved.runs if saved else 0)))


def _compare(
    connection: sa.Connection,
    saved: ScheduleRow,
    schedule: Schedule,
    timetable: Timetable,
    after: dt.datetime,
    count: int,
) -> ScheduleComparison:
    saved_timetable = saved.schedule.build_timetable(
        calendars.load_calendars(connection, saved.schedule.calendar_names)
    )
    (old, old_end), (new, new_end) = (
        _list_firing_times(saved_timetable, after, count),
        _list_firing_times(timetable, after, count),
    )
    until = min((end for end in (old_end, new_end) if end is not None), default=None)
    added = sorted(at for at in set(new) - set(old) if until is None or at <= until)
    removed = sorted(at for at in set(old) - set(new) if until is None or at <= until)
    fields = list(comparison.compare_values("schedule", saved.spec, schedule.to_json()))
    return ScheduleComparison(saved, fields, added, removed, until)


def _list_firing_times(
    timetable: Timetable, after: dt.datetime, count: int
) -> tuple[list[dt.datetime], dt.datetime | None]:
    """Return the next firing times, ascending, and the time up to which they are complete (None: without an end)."""
    firing_times = [preview.at for preview in next_times.compute_upcoming(timetable, after, count) if preview.fires]
    return firing_times, firing_times[-1] if len(firing_times) == count else None


def _parse_inline_calendars(specs: Mapping[str, Any]) -> dict[str, Calendar]:
    """Parse the calendars of the request, which are not saved."""
    parsed_calendars: dict[str, Calendar] = {}
    problems: list[FieldError] = []
    for name, spec in specs.items():
        try:
            calendar_changes.check_name(name, format_pointer("calendars", name))
            parsed_calendars[name] = calendar_parser.parse(spec, format_pointer("calendars", name))
        except InvalidInput as error:
            problems += error.errors
    raise_for_problems(problems)
    return parsed_calendars


def _validate_calendars(
    connection: sa.Connection, schedule: Schedule, inline_calendars: Mapping[str, Calendar]
) -> list[FieldError]:
    """Return the problems of the calendars that the schedule names; those in the request need not be saved."""
    named = [
        (format_pointer(part, at), name)
        for part in ("require", "exclude")
        for at, name in enumerate(getattr(schedule, part))
    ]
    here = {place for place, name in named if name in inline_calendars}
    counted = inline_calendars.get(schedule.calendar or "")
    if counted is not None:
        here.add("/calendar")
    problems = [
        problem
        for problem in calendars.validate_schedule_calendars(connection, schedule)
        if problem.pointer not in here
    ]
    if counted is not None and isinstance(schedule.rule, BusinessDayRule) and not isinstance(counted, BusinessCalendar):
        message = f"calendar {schedule.calendar} lists dates; business days are counted by a calendar of kind business"
        problems.append(FieldError("/calendar", "not_allowed", message))
    return problems
