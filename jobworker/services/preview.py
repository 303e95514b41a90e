"""What a schedule would do if it were saved: its next moments, and what is different from the one that is."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import admission, calendar_reading, describing, differences, outlook
from jobworker.domain import schedule as schedule_rules
from jobworker.domain.calendars import Business, Calendar
from jobworker.domain.differences import Difference
from jobworker.domain.errors import FieldError, InvalidInput, pointer
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.schedule import Schedule
from jobworker.domain.timetable import Timetable
from jobworker.services import calendar_editing, calendars, finding, occasions, preparing, schedule_checks, schedules
from jobworker.services.coming import Coming, Expected, at_start, coming, left_out
from jobworker.store.database import Database
from jobworker.store.schedules import ScheduleRow

#: So many moments are worked out at most.
MOST = 1000

#: Stands for the name, and the job, of a schedule that has none yet.
_UNNAMED = "unnamed"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at: a schedule as JSON, whose name and job may be left out.

    `count` moments after `after` (None: now); `calendars` as JSON, by name, go before those that are saved;
    `saved` names the schedule with which it is compared.
    """

    spec: Mapping[str, Any]
    count: int
    after: dt.datetime | None = None
    calendars: Mapping[str, Any] = field(default_factory=dict)
    saved: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What is different from a saved schedule: fields, and which of the next moments come, and go, up to `until`.

    `until` None: for ever.
    """

    row: ScheduleRow
    fields: Sequence[Difference]
    comes: Sequence[dt.datetime]
    goes: Sequence[dt.datetime]
    until: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Preview:
    """The schedule as it was understood, as JSON, and when it would be due."""

    schedule: Mapping[str, Any]
    in_words: str
    warnings: Sequence[str]
    moments: Sequence[Coming]
    compared: Compared | None


def preview(database: Database, clock: Clock, asked: Asked) -> Preview:
    """Work out what a schedule would do; raises `InvalidInput` with everything that is wrong with it."""
    with database.read() as connection:
        saved = schedules.find(connection, asked.saved) if asked.saved is not None else None
        names = {"name": saved.name, "job": saved.job} if saved else {"name": _UNNAMED, "job": _UNNAMED}
        wanted = schedule_rules.parse({**names, **asked.spec})
        inline = _inline(asked.calendars)
        problems = _calendar_problems(connection, wanted, inline)
        if saved or "job" in asked.spec:
            problems += schedule_checks.runnable(connection, wanted)
        admission.refuse(problems)
        finding.queue(connection, wanted.queue, "/queue")
        known = calendars.known(connection, [name for name in wanted.calendar_names if name not in inline])
        closed = _closed(connection, wanted) if saved or "job" in asked.spec else None
        now = clock.now()
        begin, timetable = asked.after or now, wanted.build_timetable({**known, **inline})
        moments = _moments(asked, wanted, timetable, saved, now) if wanted.enabled else []
        compared = _compare(connection, saved, wanted, timetable, begin, asked.count) if saved else None
    unnamed = {name: None for name in names if saved is None and name not in asked.spec}
    warnings = [*_warnings(wanted, closed), *outlook.warnings(timetable, begin)]
    shown = [left_out(each, closed) for each in moments]
    return Preview({**wanted.to_json(), **unnamed}, describing.of_schedule(wanted), warnings, shown, compared)


def _closed(connection: sa.Connection, wanted: Schedule) -> str | None:
    return occasions.closed(preparing.look_up(connection, [wanted.job]), wanted.job)


def _warnings(wanted: Schedule, closed: str | None) -> Iterator[str]:
    if not wanted.enabled:
        yield "it is not enabled: nothing is due"
    if closed is not None:
        yield f"{closed}: its occurrences are left out"


def _moments(
    asked: Asked, wanted: Schedule, timetable: Timetable, saved: ScheduleRow | None, now: dt.datetime
) -> list[Coming]:
    """What is due next. A schedule that is not saved would be created now."""
    begin, count = asked.after or now, _most(asked.count, wanted, saved)
    if saved is None and wanted.initial_delay:
        return coming(timetable, max(begin, now + dt.timedelta(seconds=wanted.initial_delay)), count)
    at_once = saved is None and asked.after is None and wanted.run_at_start and occasions.in_bounds(timetable, now)
    first = [at_start(timetable, now)] if at_once and count else []
    fires = sum(each.outcome is Expected.FIRE for each in first)
    return [*first, *coming(timetable, begin, count - fires)]


def _most(count: int, wanted: Schedule, saved: ScheduleRow | None) -> int:
    if wanted.max_runs is None:
        return count
    return max(0, min(count, wanted.max_runs - (saved.runs if saved else 0)))


def _compare(
    connection: sa.Connection,
    saved: ScheduleRow,
    wanted: Schedule,
    timetable: Timetable,
    after: dt.datetime,
    count: int,
) -> Compared:
    was = saved.schedule.build_timetable(calendars.known(connection, saved.schedule.calendar_names))
    (old, old_end), (new, new_end) = _firing(was, after, count), _firing(timetable, after, count)
    until = min((end for end in (old_end, new_end) if end is not None), default=None)
    comes = sorted(at for at in set(new) - set(old) if until is None or at <= until)
    goes = sorted(at for at in set(old) - set(new) if until is None or at <= until)
    fields = list(differences.of_values("schedule", saved.spec, wanted.to_json()))
    return Compared(saved, fields, comes, goes, until)


def _firing(timetable: Timetable, after: dt.datetime, count: int) -> tuple[list[dt.datetime], dt.datetime | None]:
    """The next moments at which something starts, ascending, and up to when that is all; None: for ever."""
    found = [each.at for each in outlook.upcoming(timetable, after, count) if each.fires]
    return found, found[-1] if len(found) == count else None


def _inline(given: Mapping[str, Any]) -> dict[str, Calendar]:
    """Calendars that are not saved."""
    found: dict[str, Calendar] = {}
    problems: list[FieldError] = []
    for name, spec in given.items():
        try:
            calendar_editing.check_name(name, pointer("calendars", name))
            found[name] = calendar_reading.parse(spec, pointer("calendars", name))
        except InvalidInput as error:
            problems += error.errors
    admission.refuse(problems)
    return found


def _calendar_problems(connection: sa.Connection, wanted: Schedule, inline: Mapping[str, Calendar]) -> list[FieldError]:
    """What is wrong with the calendars that it names, but for those that came with it."""
    named = [
        (pointer(part, at), name) for part in ("require", "exclude") for at, name in enumerate(getattr(wanted, part))
    ]
    here = {place for place, name in named if name in inline}
    counted = inline.get(wanted.calendar or "")
    if counted is not None:
        here.add("/calendar")
    problems = [each for each in calendars.problems(connection, wanted) if each.pointer not in here]
    if counted is not None and isinstance(wanted.rule, BusinessDay) and not isinstance(counted, Business):
        message = f"calendar {wanted.calendar} lists dates; business days are counted by a calendar of kind business"
        problems.append(FieldError("/calendar", "not_allowed", message))
    return problems
