"""What code declares becomes so in SQL: schedules and calendars that are new, changed, or not declared any more.

One transaction does it all, or shows what it would do (`plan`) and undoes it. What cannot be is left as it was and
told with its reason; everything else goes its way. What belongs to the API or to a job's definition is never touched.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.declare.schedules import Declarations, Declared
from jobworker.domain import differences, outlook
from jobworker.domain.calendars import Calendar
from jobworker.domain.differences import Difference
from jobworker.domain.errors import CalendarInUse, Conflict, InvalidInput
from jobworker.domain.job import Owner as JobOwner
from jobworker.domain.schedule import Owner, Schedule, State
from jobworker.services import calendar_editing, firing, schedule_checks
from jobworker.services import schedules as editing
from jobworker.store import calendars, queues, schedules
from jobworker.store.calendars import CalendarRow
from jobworker.store.database import Database
from jobworker.store.schedules import ScheduleRow

#: So many of the next moments are shown of what is new or changed.
_SHOWN = 3


class Step(StrEnum):
    """What becomes of something that code declares, or did."""

    CREATED = "created"
    CHANGED = "changed"
    #: It had been retired, and is declared again.
    RESTORED = "restored"
    #: A schedule is not declared any more: nothing of it is due, its history stays.
    RETIRED = "retired"
    #: A calendar is not declared any more; its revisions stay.
    REMOVED = "removed"
    #: It cannot be; the reason says why. It is left as it was.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between code and SQL.

    `kind` is schedule or calendar, `place` a file and a line; `next` are the first moments at which it fires, in the
    schedule's zone; `warnings` say what somebody should know about it, that it never fires for instance.
    """

    step: Step
    kind: str
    name: str
    place: str | None = None
    reason: str | None = None
    differences: Sequence[Difference] = ()
    next: Sequence[dt.datetime] = ()
    warnings: Sequence[str] = ()


def plan(database: Database, clock: Clock, declared: Declarations) -> list[Change]:
    """What `apply` would do now."""
    with database.write() as connection:
        tried = connection.begin_nested()
        try:
            return carry_out(connection, declared, "plan", clock.now())
        finally:
            tried.rollback()


def apply(database: Database, clock: Clock, declared: Declarations, actor: str) -> list[Change]:
    """Make SQL say what code says; answers what that changed, and what it could not."""
    with database.write() as connection:
        return carry_out(connection, declared, actor, clock.now())


def in_code(database: Database) -> list[str]:
    """The names of the schedules that are there because code declares them."""
    with database.read() as connection:
        return [row.name for row in schedules.owned(connection, Owner.CODE) if row.state is not State.RETIRED]


def carry_out(connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime) -> list[Change]:
    """The same in a transaction of the caller's."""
    return list(_apply(connection, declared, actor, now))


def _apply(connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime) -> Iterator[Change]:
    # Calendars first and last: schedules name them.
    for name, calendar in declared.calendars.items():
        before = calendars.get(connection, name)
        if before is None or before.owner is not JobOwner.CODE or before.spec != calendar.value.to_json():
            yield _put_calendar(connection, name, before, calendar, actor, now)
    yield from _apply_schedules(connection, declared, actor, now)
    for row in calendars.owned(connection, JobOwner.CODE):
        if row.name not in declared.calendars:
            yield _remove_calendar(connection, row, actor, now)


def _apply_schedules(
    connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime
) -> Iterator[Change]:
    known = {row.name: row for row in schedules.owned(connection, Owner.CODE)}
    for name, each in declared.schedules.items():
        row = known.get(name) or schedules.named(connection, name)
        if row is None or not _is_so(row, each.value):
            yield _put_schedule(connection, row, each, actor, now)
    for name, row in known.items():
        if name not in declared.schedules and row.state is not State.RETIRED:
            yield _retire(connection, row, actor, now)


def _retire(connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime) -> Change:
    gone = "it is not declared any more"
    try:
        with connection.begin_nested():
            schedules.retire(connection, firing.settle_now(connection, row, now), actor, now)
    except Conflict as error:
        return Change(Step.REFUSED, "schedule", row.name, None, f"{gone}, but {error.detail}")
    return Change(Step.RETIRED, "schedule", row.name, None, gone)


def _put_calendar(
    connection: sa.Connection,
    name: str,
    before: CalendarRow | None,
    declared: Declared[Calendar],
    actor: str,
    now: dt.datetime,
) -> Change:
    if before is not None and before.owner is not JobOwner.CODE:
        reason = "a calendar of this name was made over HTTP; delete that one, or give this one another name"
        return Change(Step.REFUSED, "calendar", name, declared.place, reason)
    try:
        with connection.begin_nested():
            calendar_editing.put(connection, name, declared.value, JobOwner.CODE, actor, now)
    except Conflict as error:
        return Change(Step.REFUSED, "calendar", name, declared.place, error.detail)
    if before is None:
        return Change(Step.CREATED, "calendar", name, declared.place)
    found = list(differences.of_values("calendar", before.spec, declared.value.to_json()))
    return Change(Step.CHANGED, "calendar", name, declared.place, None, found)


def _remove_calendar(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> Change:
    gone = "it is not declared any more"
    try:
        calendar_editing.delete(connection, row, actor, now)
    except CalendarInUse as error:
        return Change(Step.REFUSED, "calendar", row.name, None, f"{gone}, but {error.detail}")
    return Change(Step.REMOVED, "calendar", row.name, None, gone)


def _is_so(row: ScheduleRow, wanted: Schedule) -> bool:
    return row.owner is Owner.CODE and row.state is not State.RETIRED and row.schedule == wanted


def _put_schedule(
    connection: sa.Connection, row: ScheduleRow | None, declared: Declared[Schedule], actor: str, now: dt.datetime
) -> Change:
    wanted = declared.value
    if row is not None and row.owner is not Owner.CODE:
        return _refused(declared, _TAKEN[row.owner].format(row.job))
    try:
        with connection.begin_nested():
            # As with jobs, what code names is declared by that.
            queues.remember(connection, [wanted.queue] if wanted.queue else [], now)
            editing.put(connection, wanted, row, Owner.CODE, actor, now)
    except InvalidInput as error:
        return _refused(declared, "; ".join(f"{each.pointer}: {each.message}" for each in error.errors))
    except Conflict as error:
        return _refused(declared, error.detail)
    return _changed(connection, row, declared, now)


_TAKEN = {
    Owner.API: "a schedule of this name was made over HTTP; delete that one, or give this one another name",
    Owner.JOB: "the definition of job {} has a schedule of this name; take it out there, or give this one another name",
}


def _refused(declared: Declared[Schedule], reason: str) -> Change:
    return Change(Step.REFUSED, "schedule", declared.value.name, declared.place, reason)


def _changed(
    connection: sa.Connection, row: ScheduleRow | None, declared: Declared[Schedule], now: dt.datetime
) -> Change:
    wanted = declared.value
    timetable = schedule_checks.check(connection, wanted)
    begins = schedules.begins(wanted, row, now)
    coming = [each.local for each in outlook.upcoming(timetable, begins, _SHOWN) if each.fires]
    noticed = outlook.warnings(timetable, begins)
    if row is None:
        return Change(Step.CREATED, "schedule", wanted.name, declared.place, next=coming, warnings=noticed)
    step = Step.RESTORED if row.state is State.RETIRED else Step.CHANGED
    found = list(differences.of_values("schedule", row.schedule.to_json(), wanted.to_json()))
    return Change(step, "schedule", wanted.name, declared.place, None, found, coming, noticed)
