"""Synchronization of SQL with declared schedules and calendars: creates, changes, retires and removes them.

One transaction applies all changes, or `plan_changes` lists them and rolls back. A declaration that cannot be applied
is left as it was and listed with the reason; the others are applied. Schedules and calendars of the API, and schedules
of job definitions, are never changed.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.declare.declarations import Declaration, Declarations
from jobworker.domain.calendars.calendars import Calendar
from jobworker.domain.errors import CalendarInUse, Conflict, InvalidInput
from jobworker.domain.executions import comparison
from jobworker.domain.executions.comparison import Difference
from jobworker.domain.jobs.definition import JobOwner
from jobworker.domain.schedules import next_times
from jobworker.domain.schedules.schedule import Schedule, ScheduleOwner, ScheduleState
from jobworker.domain.schedules.state import compute_start
from jobworker.services.calendars import calendar_changes
from jobworker.services.schedules import evaluator, validation
from jobworker.services.schedules import schedules as editing
from jobworker.store import queues
from jobworker.store.calendars import calendar_rows
from jobworker.store.calendars.calendar_rows import CalendarRow
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: Maximum number of next firing times in a change.
_MAX_MOMENTS_SHOWN = 3


class SyncOutcome(StrEnum):
    """Outcome of a declaration, or of a schedule or calendar that is not declared any more."""

    CREATED = "created"
    CHANGED = "changed"
    #: A retired schedule is declared again.
    RESTORED = "restored"
    #: A schedule is not declared any more: no occurrence is due, its history is kept.
    RETIRED = "retired"
    #: A calendar is not declared any more; its revisions are kept.
    REMOVED = "removed"
    #: The change cannot be applied; `reason` contains the cause. The stored state is unchanged.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SyncChange:
    """A difference between code and SQL. The names are those of the JSON that `jobworker schedules plan` prints.

    `kind` is schedule or calendar, `place` is file and line; `next` contains the next firing times in the schedule's
    zone; `warnings` contains remarkable properties, for example that the schedule never fires.
    """

    step: SyncOutcome
    kind: str
    name: str
    place: str | None = None
    reason: str | None = None
    differences: Sequence[Difference] = ()
    next: Sequence[dt.datetime] = ()
    warnings: Sequence[str] = ()


def plan_changes(database: Database, clock: Clock, declared: Declarations) -> list[SyncChange]:
    """Return the changes that `apply_declarations` would make now."""
    with database.write() as connection:
        tried = connection.begin_nested()
        try:
            return apply_in_transaction(connection, declared, "plan", clock.now())
        finally:
            tried.rollback()


def apply_declarations(database: Database, clock: Clock, declared: Declarations, actor: str) -> list[SyncChange]:
    """Apply the declarations of code to SQL; return the changes, refused ones included."""
    with database.write() as connection:
        return apply_in_transaction(connection, declared, actor, clock.now())


def list_declared_names(database: Database) -> list[str]:
    """Return the names of the stored schedules that code declares."""
    with database.read() as connection:
        return [
            row.name
            for row in schedule_rows.list_owned(connection, ScheduleOwner.CODE)
            if row.state is not ScheduleState.RETIRED
        ]


def apply_in_transaction(
    connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime
) -> list[SyncChange]:
    """Apply the declarations as `apply_declarations` does, in the caller's transaction."""
    return list(_apply_changes(connection, declared, actor, now))


def _apply_changes(
    connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime
) -> Iterator[SyncChange]:
    # Calendars are added before the schedules that name them, and removed after these.
    for name, calendar in declared.calendars.items():
        before = calendar_rows.get(connection, name)
        if before is None or before.owner is not JobOwner.CODE or before.spec != calendar.value.to_json():
            yield _put_calendar(connection, name, before, calendar, actor, now)
    yield from _apply_schedules(connection, declared, actor, now)
    for row in calendar_rows.list_owned(connection, JobOwner.CODE):
        if row.name not in declared.calendars:
            yield _remove_calendar(connection, row, actor, now)


def _apply_schedules(
    connection: sa.Connection, declared: Declarations, actor: str, now: dt.datetime
) -> Iterator[SyncChange]:
    owned_rows = {row.name: row for row in schedule_rows.list_owned(connection, ScheduleOwner.CODE)}
    for name, declaration in declared.schedules.items():
        row = owned_rows.get(name) or schedule_rows.get_by_name(connection, name)
        if row is None or not _is_unchanged(row, declaration.value):
            yield _put_schedule(connection, row, declaration, actor, now)
    for name, row in owned_rows.items():
        if name not in declared.schedules and row.state is not ScheduleState.RETIRED:
            yield _retire_schedule(connection, row, actor, now)


def _retire_schedule(connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime) -> SyncChange:
    gone = "it is not declared any more"
    try:
        with connection.begin_nested():
            schedule_rows.retire(connection, evaluator.evaluate_now(connection, row, now), actor, now)
    except Conflict as error:
        return SyncChange(SyncOutcome.REFUSED, "schedule", row.name, None, f"{gone}, but {error.detail}")
    return SyncChange(SyncOutcome.RETIRED, "schedule", row.name, None, gone)


def _put_calendar(
    connection: sa.Connection,
    name: str,
    before: CalendarRow | None,
    declared: Declaration[Calendar],
    actor: str,
    now: dt.datetime,
) -> SyncChange:
    if before is not None and before.owner is not JobOwner.CODE:
        reason = "a calendar of this name was made over HTTP; delete that one, or give this one another name"
        return SyncChange(SyncOutcome.REFUSED, "calendar", name, declared.place, reason)
    try:
        with connection.begin_nested():
            calendar_changes.save(connection, name, declared.value, JobOwner.CODE, actor, now)
    except Conflict as error:
        return SyncChange(SyncOutcome.REFUSED, "calendar", name, declared.place, error.detail)
    if before is None:
        return SyncChange(SyncOutcome.CREATED, "calendar", name, declared.place)
    differences = list(comparison.compare_values("calendar", before.spec, declared.value.to_json()))
    return SyncChange(SyncOutcome.CHANGED, "calendar", name, declared.place, None, differences)


def _remove_calendar(connection: sa.Connection, row: CalendarRow, actor: str, now: dt.datetime) -> SyncChange:
    gone = "it is not declared any more"
    try:
        calendar_changes.delete_unused(connection, row, actor, now)
    except CalendarInUse as error:
        return SyncChange(SyncOutcome.REFUSED, "calendar", row.name, None, f"{gone}, but {error.detail}")
    return SyncChange(SyncOutcome.REMOVED, "calendar", row.name, None, gone)


def _is_unchanged(row: ScheduleRow, schedule: Schedule) -> bool:
    return row.owner is ScheduleOwner.CODE and row.state is not ScheduleState.RETIRED and row.schedule == schedule


def _put_schedule(
    connection: sa.Connection, row: ScheduleRow | None, declared: Declaration[Schedule], actor: str, now: dt.datetime
) -> SyncChange:
    schedule = declared.value
    if row is not None and row.owner is not ScheduleOwner.CODE:
        return _build_refusal(declared, _OWNER_CONFLICTS[row.owner].format(row.job))
    try:
        with connection.begin_nested():
            # A queue that a declaration names is created with it, as with jobs.
            queues.upsert_many(connection, [schedule.queue] if schedule.queue else [], now)
            editing.save(connection, schedule, row, ScheduleOwner.CODE, actor, now)
    except InvalidInput as error:
        return _build_refusal(declared, "; ".join(f"{problem.pointer}: {problem.message}" for problem in error.errors))
    except Conflict as error:
        return _build_refusal(declared, error.detail)
    return _build_change(connection, row, declared, now)


_OWNER_CONFLICTS = {
    ScheduleOwner.API: "a schedule of this name was made over HTTP; delete that one, or give this one another name",
    ScheduleOwner.JOB: "the definition of job {} has a schedule of this name; "
    "take it out there, or give this one another name",
}


def _build_refusal(declared: Declaration[Schedule], reason: str) -> SyncChange:
    return SyncChange(SyncOutcome.REFUSED, "schedule", declared.value.name, declared.place, reason)


def _build_change(
    connection: sa.Connection, row: ScheduleRow | None, declared: Declaration[Schedule], now: dt.datetime
) -> SyncChange:
    schedule = declared.value
    timetable = validation.check_schedule(connection, schedule)
    begins = compute_start(schedule, row.settled_until if row else None, now)
    upcoming_times = [
        preview.local for preview in next_times.compute_upcoming(timetable, begins, _MAX_MOMENTS_SHOWN) if preview.fires
    ]
    noticed = next_times.compute_warnings(timetable, begins)
    if row is None:
        return SyncChange(
            SyncOutcome.CREATED, "schedule", schedule.name, declared.place, next=upcoming_times, warnings=noticed
        )
    step = SyncOutcome.RESTORED if row.state is ScheduleState.RETIRED else SyncOutcome.CHANGED
    differences = list(comparison.compare_values("schedule", row.schedule.to_json(), schedule.to_json()))
    return SyncChange(step, "schedule", schedule.name, declared.place, None, differences, upcoming_times, noticed)
