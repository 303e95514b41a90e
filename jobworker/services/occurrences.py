"""Occurrences of a schedule: what became of those that were due, what is ahead, and one more by hand."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import Conflict, FieldError, IdempotencyKeyReused, InvalidInput
from jobworker.domain.schedule import Overlap, Schedule, stored
from jobworker.domain.timetable import Timetable
from jobworker.services import accepting, coming, firing, occasions, plans, preparing, schedules
from jobworker.services.accepting import Once, Request
from jobworker.services.coming import Coming
from jobworker.store import executions, idempotency, ledger, unreadable
from jobworker.store import schedules as schedule_rows
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.idempotency import Remembered
from jobworker.store.ledger import Range
from jobworker.store.occurrences import Occurrence
from jobworker.store.pages import DEFAULT_LIMIT, Page
from jobworker.store.schedules import ScheduleRow


@dataclass(frozen=True, slots=True)
class Fired:
    """An occurrence that somebody wanted, and its execution; None: the overlap policy left it out."""

    timetable: Timetable
    occurrence: Occurrence
    execution: ExecutionRow | None


def past(
    database: Database, name: str, wanted: Range, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> tuple[Timetable, Page[Occurrence]]:
    """What became of the occurrences of a schedule, the latest first; by its id also of one that was removed.

    Raises `ScheduleNotFound`, and `InvalidInput` for a range that ends before it begins.
    """
    _check(wanted)
    with database.read() as connection:
        kept = schedules.kept(connection, name)
        with unreadable.reading(f"schedule {kept.name}"):
            known = timetable(connection, kept.row) if kept.row else _without_calendars(stored(kept.spec))
        return known, ledger.page(connection, kept.id, wanted, limit, cursor)


def ahead(database: Database, name: str, wanted: Range, count: int) -> Sequence[Coming]:
    """Of the next `count` occurrences that are not settled yet, those that are wanted; raises what `past` raises."""
    _check(wanted)
    begin, end = wanted.begin, wanted.end
    with database.read() as connection:
        row = schedules.find(connection, name)
        rules = timetable(connection, row)
        closed = occasions.closed(preparing.look_up(connection, [row.job]), row.job)
    after = row.settled_until
    if begin is not None and begin > after:
        after = begin - dt.timedelta(microseconds=1)
    with unreadable.reading(f"schedule {row.name}"):
        found = coming.of_schedule(row, rules, closed, after, count)
    return [each for each in found if end is None or each.at < end]


def timetable(connection: sa.Connection, row: ScheduleRow) -> Timetable:
    """When a schedule is due; raises `Conflict` if that cannot be read."""
    plan = plans.of(connection, [row]).get(row.id)
    if plan is None:
        message = f"schedule {row.name} cannot be read by this version, or a calendar of it is gone; change it"
        raise Conflict(message)
    return plan.timetable


def _check(wanted: Range) -> None:
    if wanted.begin is not None and wanted.end is not None and wanted.end <= wanted.begin:
        message = f"to must be later than from, {wanted.begin.isoformat()}"
        raise InvalidInput(message, [FieldError("to", "not_allowed", message)])


def _without_calendars(schedule: Schedule) -> Timetable:
    """Of a schedule that was removed: its calendars may be others by now, or gone."""
    return replace(schedule, calendar=None, require=(), exclude=()).build_timetable({})


def fire(
    database: Database, clock: Clock, name: str, overlap: Overlap | None, actor: str, once: Once | None = None
) -> Fired:
    """One more occurrence, now. Asked again under the same key, it is the one of then."""
    asked = accepting.fingerprint([name, overlap], "fire")
    request = Request(actor, clock.now(), once, asked)
    with database.write() as connection:
        row = schedules.find(connection, name)
        # Who brings the same key at the same moment waits here.
        schedule_rows.lock(connection, row.id)
        earlier = accepting.replayed(connection, request)
        if earlier is not None:
            return _fired(connection, row, earlier.execution_ids[0])
        decision = firing.fire(connection, row, request.now, actor, overlap)
        occurrence = ledger.get(connection, row.id, decision.nominal)
        assert occurrence is not None, "it was just entered"
        if occurrence.execution_id is None:
            return Fired(timetable(connection, row), occurrence, None)
        _remember(connection, request, occurrence.execution_id)
        return _fired(connection, row, occurrence.execution_id)


def _fired(connection: sa.Connection, row: ScheduleRow, execution_id: str) -> Fired:
    execution = executions.get(connection, execution_id)
    assert execution is not None, "executions are kept"
    assert execution.scheduled_for is not None, "it was made by a schedule"
    occurrence = ledger.get(connection, row.id, execution.scheduled_for)
    assert occurrence is not None, "an occurrence is kept"
    return Fired(timetable(connection, row), occurrence, execution)


def _remember(connection: sa.Connection, request: Request, execution_id: str) -> None:
    once = request.idempotency_key
    if once is None:
        return
    answer = Remembered(once.key, request.fingerprint, [execution_id], None, request.now)
    if idempotency.reserve(connection, answer, request.now - dt.timedelta(seconds=once.ttl)) is not None:
        raise IdempotencyKeyReused(f"Idempotency-Key {once.key} was used for another request; use a new key")
