"""Schedules: create, change, remove, look up. Whatever is due by then is settled before one changes."""

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import describing, differences, outlook
from jobworker.domain import schedule as schedule_rules
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    PreconditionFailed,
    RevisionNotFound,
    ScheduleExists,
    ScheduleNotFound,
    ScheduleOwnedElsewhere,
)
from jobworker.domain.ids import is_id
from jobworker.domain.schedule import Owner, Schedule, State
from jobworker.domain.timetable import next_after
from jobworker.domain.zones import DATA_VERSION
from jobworker.services import firing, naming, occasions, overdue, pausing, plans, preparing, schedule_checks, zone_data
from jobworker.services.plans import Plan
from jobworker.services.zone_data import Move
from jobworker.store import schedule_lists, schedules, unreadable
from jobworker.store.database import Database
from jobworker.store.pages import DEFAULT_LIMIT, Page
from jobworker.store.schedule_lists import Filters, RevisionRow, Standing
from jobworker.store.schedules import ScheduleRow

#: The revisions that a change may replace; None: whichever is current.
Expected = Collection[int] | None

#: Databases keep no higher number.
_HIGHEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Known:
    """A schedule as it stands, and what somebody who looks at it should notice.

    `in_words` says when it is due; None: it cannot be read. `next_at` is what is due next; None: nothing is, though
    a row may say so when its time has come.
    """

    row: ScheduleRow
    standing: Standing
    in_words: str | None
    next_at: dt.datetime | None
    expected_by: dt.datetime | None
    overdue: bool
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which schedules are listed; None does not filter."""

    job: str | None = None
    owner: Owner | None = None
    state: Standing | None = None
    calendar: str | None = None
    overdue: bool | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A revision of a schedule, and the fields that it changed; None for the first."""

    name: str
    row: RevisionRow
    changed_fields: Sequence[str] | None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a schedule; `row` None: it was removed, and only its id leads here. `revision` is its latest."""

    id: str
    name: str
    revision: int
    spec: Mapping[str, Any]
    row: ScheduleRow | None


def create(database: Database, clock: Clock, described: Mapping[str, Any], actor: str) -> Known:
    """Add a schedule; raises `ScheduleExists`, and `InvalidInput` with everything that is wrong with it."""
    wanted = schedule_rules.parse(described)
    with database.write() as connection:
        there = schedules.named(connection, wanted.name)
        if there is not None:
            raise ScheduleExists(f"schedule {wanted.name} exists already; {_instead(there)}")
        now = clock.now()
        return known(connection, [put(connection, wanted, None, Owner.API, actor, now)], now)[0]


def change(
    database: Database, clock: Clock, name: str, described: Mapping[str, Any], expected: Expected, actor: str
) -> Known:
    """Replace a schedule, if its current revision is one of those expected.

    What is due by now is settled as the schedule was; afterwards it is as it is described.
    """
    with database.write() as connection:
        row = _expect(connection, name, expected)
        _editable(row)
        if described.get("name", row.name) != row.name:
            message = f"name is {described['name']!r}, but this is schedule {row.name}; a schedule cannot be renamed"
            raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
        wanted = schedule_rules.parse({**described, "name": row.name})
        now = clock.now()
        return known(connection, [put(connection, wanted, row, Owner.API, actor, now)], now)[0]


def remove(database: Database, clock: Clock, name: str, expected: Expected, actor: str) -> None:
    """Remove a schedule once what is due is settled; its executions still run, and its ledger stays."""
    with database.write() as connection:
        row = _expect(connection, name, expected)
        if row.state is not State.RETIRED:
            _editable(row)
        schedules.delete(connection, firing.settle_now(connection, row, clock.now()), actor, clock.now())


def pause(
    database: Database, clock: Clock, name: str, note: str | None, until: dt.datetime | None, actor: str
) -> Known:
    """Let a schedule start nothing from now on, until somebody resumes it or `until` has come."""
    now = clock.now()
    with database.write() as connection:
        row = pausing.pause(connection, find(connection, name), note, until, actor, now)
        return known(connection, [row], now)[0]


def resume(database: Database, clock: Clock, name: str, policy: schedule_rules.Missed | None, actor: str) -> Known:
    """End a pause; `policy` says what becomes of the occurrences that it held up, None: the schedule does."""
    now = clock.now()
    with database.write() as connection:
        row = pausing.resume(connection, find(connection, name), actor, now, policy)
        return known(connection, [row], now)[0]


def get(database: Database, clock: Clock, name: str) -> Known:
    """The schedule with this name, or id; raises `ScheduleNotFound`."""
    with database.read() as connection:
        return known(connection, [find(connection, name)], clock.now())[0]


def page(
    database: Database, clock: Clock, asked: Asked, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Known]:
    """Schedules by name."""
    now = clock.now()
    since = overdue.since(now) if asked.overdue else None
    filters = Filters(asked.job, asked.owner, asked.state, asked.calendar, since)
    with database.read() as connection:
        found = schedule_lists.page(connection, filters, _shown(asked), now, limit, cursor)
        return found.replace_items(known(connection, found.items, now))


def revisions(database: Database, name: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Changed]:
    """The revisions of a schedule, the latest first; by its id also those of one that was removed."""
    with database.read() as connection:
        row = kept(connection, name)
        found = schedule_lists.revisions(connection, row.id, limit, cursor)
        earliest = found.items[-1].revision if found.items else 1
        before = schedule_lists.revision(connection, row.id, earliest - 1)
    older = [*found.items[1:], before]
    items = [_changed(row, one, was) for one, was in zip(found.items, older, strict=False)]
    return found.replace_items(items)


def revision(database: Database, name: str, number: int) -> Changed:
    """One revision; raises `ScheduleNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = kept(connection, name)
        found = schedule_lists.revision(connection, row.id, number) if number <= _HIGHEST else None
        if found is None:
            raise RevisionNotFound(f"schedule {row.name} has no revision {number}; the latest is {row.revision}")
        return _changed(row, found, schedule_lists.revision(connection, row.id, number - 1))


def kept(connection: sa.Connection, name: str) -> Kept:
    """What is kept of the schedule with this name, or of the one that has or had this id; raises `ScheduleNotFound`."""
    row = schedules.get(connection, name) if name.isprintable() else None
    latest = schedule_lists.latest(connection, name) if row is None and is_id(name) else None
    if latest is not None:
        return Kept(latest.schedule_id, latest.spec["name"], latest.revision, latest.spec, None)
    row = row or find(connection, name)
    return Kept(row.id, row.name, row.revision, row.spec, row)


def find(connection: sa.Connection, name: str) -> ScheduleRow:
    """The schedule with this name, or id; raises `ScheduleNotFound` with the names that come close."""
    row = schedules.get(connection, name) if name.isprintable() else None
    if row is None:
        near = schedule_lists.names_around(connection, name)
        raise ScheduleNotFound(naming.unknown("schedule", name, near, "GET /api/v1/schedules"))
    return row


def known(connection: sa.Connection, rows: Sequence[ScheduleRow], now: dt.datetime) -> list[Known]:
    """What there is to know about these schedules at this moment."""
    found, read = preparing.look_up(connection, {row.job for row in rows}), plans.of(connection, rows)
    moves = zone_data.moving(connection, rows, read)
    return [_known_anyway(row, found, read.get(row.id), moves.get(row.id), now) for row in rows]


def put(
    connection: sa.Connection,
    wanted: Schedule,
    before: ScheduleRow | None,
    owner: Owner,
    actor: str,
    now: dt.datetime,
) -> ScheduleRow:
    """Enter a schedule, or change it once what is due is settled; raises `InvalidInput` if it cannot run."""
    timetable = schedule_checks.check(connection, wanted)
    if before is not None:
        before = firing.settle_now(connection, before, now)
    first = next_after(timetable, schedules.begins(wanted, before, now))
    row = schedules.put(connection, wanted, owner, actor, now, first)
    if before is None and wanted.run_at_start:
        firing.start(connection, [row.id], now, "it was created")
        return find(connection, row.id)
    return row


def _known_anyway(
    row: ScheduleRow, found: preparing.Known, plan: Plan | None, move: Move | None, now: dt.datetime
) -> Known:
    try:
        return _known(row, found, plan, move, now)
    except unreadable.ERRORS as error:
        # A specification is not checked again when it is read, so what is wrong with it may show only now.
        plans.refused(row, error)
        return _known(row, found, None, None, now)


def _known(row: ScheduleRow, found: preparing.Known, plan: Plan | None, move: Move | None, now: dt.datetime) -> Known:
    by, standing = overdue.expected_by(row, now), schedule_lists.standing(row, now)
    in_words = describing.of_schedule(plan.schedule) if plan else None
    late = by is not None and by < now
    following = row.next_at if standing in (Standing.ACTIVE, Standing.PAUSED) else None
    warnings = [*_warnings(row, found, plan, now), *([_will_move(move)] if move else [])]
    return Known(row, standing, in_words, following, by, late, warnings)


def _will_move(move: Move) -> str:
    return f"time zone data have changed: {move.describe()}, as soon as a relay with {DATA_VERSION} leads"


def _warnings(row: ScheduleRow, found: preparing.Known, plan: Plan | None, now: dt.datetime) -> Iterator[str]:
    job = found.jobs.get(row.job)
    if job is None:
        yield f"there is no job {row.job} any more: nothing starts"
    elif not job.definition.enabled:
        yield f"job {row.job} is disabled: its occurrences are left out"
    elif (why := occasions.closed(found, row.job)) is not None:
        yield f"its occurrences are left out: {why}"
    elif plan is not None and (problem := occasions.pattern(plan, found, now).problem) is not None:
        yield f"its executions fail, because job {row.job} refuses its parameters: {problem}"
    if plan is None:
        yield "it cannot be read by this version, or a calendar of it is gone: nothing starts; change it"
    elif row.runs == 0:
        # What is due and not settled yet is still ahead.
        yield from outlook.warnings(plan.timetable, min(now, row.settled_until))


def _expect(connection: sa.Connection, name: str, expected: Expected) -> ScheduleRow:
    """The schedule, if it is at one of the revisions that the caller knows; nobody else changes it meanwhile."""
    schedules.lock(connection, find(connection, name).id)
    row = find(connection, name)
    if expected is not None and row.revision not in expected:
        message = f"schedule {row.name} is at revision {row.revision} now; read it again, then repeat the change"
        raise PreconditionFailed(message)
    return row


def _instead(row: ScheduleRow) -> str:
    """What somebody can do who wants a schedule of the name of this one."""
    if row.state is State.RETIRED:
        return "it is retired, code declares it no more: DELETE it first"
    if row.owner is Owner.CODE:
        return "it is declared in code; change it there (schedules/*.py), or take another name"
    if row.owner is Owner.JOB:
        return f"it is part of the definition of job {row.job}; change it there, or take another name"
    return "change it with PUT and If-Match"


def _editable(row: ScheduleRow) -> None:
    if row.state is State.RETIRED:
        message = f"schedule {row.name} is retired, code declares it no more; DELETE it, then create it anew"
        raise ScheduleOwnedElsewhere(message)
    if row.owner is Owner.CODE:
        message = f"schedule {row.name} is declared in code; change it there (schedules/*.py)"
        raise ScheduleOwnedElsewhere(message)
    if row.owner is Owner.JOB:
        message = f"schedule {row.name} is part of the definition of its job; change it with PUT /api/v1/jobs/{row.job}"
        raise ScheduleOwnedElsewhere(message)


def _shown(asked: Asked) -> dict[str, Any]:
    """The filters as a cursor belongs to them: overdue is overdue, whatever the time."""
    return {
        "job": asked.job,
        "owner": asked.owner,
        "state": asked.state,
        "calendar": asked.calendar,
        "overdue": asked.overdue,
    }


def _changed(of: Kept, row: RevisionRow, before: RevisionRow | None) -> Changed:
    changed = None
    if before is not None:
        changed = [each.pointer for each in differences.of_values("spec", before.spec, row.spec)]
    return Changed(of.name, row, changed, of.row is None)
