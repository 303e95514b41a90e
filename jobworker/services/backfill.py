"""Backfill: the past occurrences of a schedule that have no execution get one, as a batch in lanes.

Each of `concurrency` lanes runs one execution after the other; the first ones in order are dealt out to them in turn.
The schedule itself goes on as if nothing were: what is due meanwhile does not wait for a backfill.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import limits
from jobworker.domain.dependencies import Dependency, On
from jobworker.domain.errors import Conflict, FieldError, InvalidInput, TaskNotFound, pointer
from jobworker.domain.schedule import Schedule
from jobworker.domain.settling import Outcome
from jobworker.domain.timetable import Timetable, forbidden_by
from jobworker.domain.timetable import occurrences as moments
from jobworker.services import dependencies, occasions, preparing, release, schedules, unique
from jobworker.services import occurrences as occurrence_services
from jobworker.services.preparing import Known, Prepared
from jobworker.store import batches, executions, ledger, occurrences
from jobworker.store import dependencies as store_dependencies
from jobworker.store import schedules as schedule_rows
from jobworker.store.batches import Kind, NewBatch
from jobworker.store.database import Database
from jobworker.store.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.occurrences import Occurrence
from jobworker.store.schedules import ScheduleRow
from jobworker.store.tasks import TaskRow

#: So many executions one backfill makes at most.
MOST = 10_000

#: So many lanes may there be.
MOST_LANES = 1000

#: So many nominal times of a range are looked at before it is called too large.
_LOOKED_AT = 5 * MOST

#: What is said to have been due before is a typing error.
_EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_TICK = dt.timedelta(microseconds=1)


class Order(StrEnum):
    """Which occurrences run first."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


@dataclass(frozen=True, slots=True)
class Asked:
    """The nominal times in [begin, end), and how they are to be run. `parameters` go before those of the schedule."""

    begin: dt.datetime
    end: dt.datetime
    order: Order = Order.OLDEST_FIRST
    concurrency: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Filled:
    """A nominal time that gets an execution; what the ledger said about it before (None: nothing), and its id."""

    scheduled_for: dt.datetime
    was: str | None
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class Backfill:
    """What was done, or would be: occurrences in the order of their runs, and how many were left out for which reason.

    `fired` had an execution already, calendars forbid `forbidden`, `pending` are settled in a moment by themselves,
    for `duplicate` another execution has the unique key.
    """

    items: Sequence[Filled]
    skip_counts: Mapping[str, int]
    batch_id: str | None = None


def backfill(database: Database, clock: Clock, name: str, asked: Asked, actor: str) -> Backfill:
    """Make up for past occurrences; raises `InvalidInput` for a range that cannot be."""
    now = clock.now()
    _check_range(asked, now)
    with database.read() as connection:
        row = schedules.find(connection, name)
        timetable = occurrence_services.timetable(connection, row)
        named = _named(timetable, asked)
        if asked.dry_run:
            chosen = _choose(connection, row, timetable, named, asked)
            if chosen.items:
                _job(row, preparing.look_up(connection, [row.job]), asked)
            return chosen
    with database.write() as connection:
        schedule_rows.lock(connection, row.id)
        current = schedules.find(connection, row.id)
        if current.revision != row.revision:
            raise Conflict(f"schedule {row.name} was changed by somebody else at the same moment; try again")
        chosen = _choose(connection, current, timetable, named, asked)
        return _fill(connection, current, chosen, asked, actor, now) if chosen.items else chosen


def _check_range(asked: Asked, now: dt.datetime) -> None:
    if asked.begin < _EARLIEST:
        _refuse("from", f"from must be {_EARLIEST.isoformat()} or later")
    if asked.end <= asked.begin:
        _refuse("to", f"to must be later than from, {asked.begin.isoformat()}")
    if asked.end > now:
        _refuse("to", f"to must not be in the future: it is {now.isoformat(timespec='seconds')} now")


def _refuse(name: str, message: str) -> None:
    raise InvalidInput(message, [FieldError(pointer(name), "not_allowed", message)])


def _named(timetable: Timetable, asked: Asked) -> list[dt.datetime]:
    """The nominal times of the range, before and after the schedule was created."""
    found = list(islice(moments(timetable, asked.begin - _TICK, asked.end), _LOOKED_AT + 1))
    if len(found) > _LOOKED_AT:
        _too_many(f"more than {_LOOKED_AT} occurrences")
    return found


def _too_many(number: str) -> None:
    message = f"the range has {number} to make up for; at most {MOST} at a time: divide it"
    raise InvalidInput(message, [FieldError("/to", "too_many", message)])


def _choose(
    connection: sa.Connection, row: ScheduleRow, timetable: Timetable, named: Sequence[dt.datetime], asked: Asked
) -> Backfill:
    """The occurrences without an execution, in the order of their runs."""
    entered = ledger.between(connection, row.id, asked.begin, asked.end)
    left_out = dict.fromkeys(("fired", "forbidden", "pending", "duplicate"), 0)
    items: list[Filled] = []
    for nominal in named:
        was = entered.get(nominal)
        if was is not None and was.outcome == Outcome.FIRED:
            left_out["fired"] += 1
        elif forbidden_by(timetable, nominal) is not None:
            left_out["forbidden"] += 1
        elif was is None and row.enabled and row.next_at is not None and nominal >= row.next_at:
            left_out["pending"] += 1
        else:
            items.append(Filled(nominal, was.outcome if was else None))
    if len(items) > MOST:
        _too_many(f"{len(items)} occurrences")
    return Backfill(items if asked.order is Order.OLDEST_FIRST else items[::-1], left_out)


def _fill(
    connection: sa.Connection, row: ScheduleRow, chosen: Backfill, asked: Asked, actor: str, now: dt.datetime
) -> Backfill:
    known = preparing.look_up(connection, [row.job])
    batch_id = preparing.make_id(now)
    made = _make(row, known, chosen.items, asked, batch_id, now)
    decided = unique.decide(connection, made, known.get_unique_policies(), now)
    accepted = {each.scheduled_for: each.id for each in decided.accepted}
    items = [
        Filled(each.scheduled_for, each.was, accepted[each.scheduled_for])
        for each in chosen.items
        if each.scheduled_for in accepted
    ]
    left_out = {**chosen.skip_counts, "duplicate": len(chosen.items) - len(items)}
    if not items:
        return Backfill((), left_out)
    name = f"backfill of {row.name}"[:128]
    batches.insert(connection, NewBatch(batch_id, Kind.BACKFILL, name, batch_id, None, now, actor))
    _insert(connection, _in_lanes(decided.accepted, asked.concurrency), actor, now)
    _enter(connection, row.id, items, actor, now)
    release.release(connection, store_dependencies.ended(connection, decided.cancelled), now)
    return Backfill(items, left_out, batch_id)


def _job(row: ScheduleRow, known: Known, asked: Asked) -> tuple[JobRow, TaskRow, dict[str, Any]]:
    """What is to run, with which parameters; raises what keeps it from running."""
    occasions.refuse_closed(known, row.job, f"schedule {row.name} cannot be made up for")
    job = known.jobs[row.job]
    task = known.tasks.get(job.definition.task)
    if task is None:
        raise TaskNotFound(f"job {row.job} runs task {job.definition.task}, which no worker announced yet")
    given = {**job.definition.defaults, **row.schedule.parameters, **asked.parameters}
    return job, task, preparing.check_parameters(task.parameters, given, "/parameters")


def _make(
    row: ScheduleRow, known: Known, items: Sequence[Filled], asked: Asked, batch_id: str, now: dt.datetime
) -> list[NewExecution]:
    """The executions, due now; raises what keeps them from running."""
    job, task, given = _job(row, known, asked)
    schedule, definition = row.schedule, job.definition
    own = {
        "schedule_id": row.id,
        "batch_id": batch_id,
        "correlation_id": batch_id,
        **_routed(schedule, definition.queue, definition.priority),
        **limits.keys(definition.name, definition.policies, given, task.parameters)._asdict(),
    }
    return [
        preparing.new_execution(
            definition, job.revision, given, now, id=preparing.make_id(now), scheduled_for=each.scheduled_for, **own
        )
        for each in items
    ]


def _routed(schedule: Schedule, queue: str, priority: int) -> dict[str, Any]:
    return {
        "queue": schedule.queue or queue,
        "priority": priority if schedule.priority is None else schedule.priority,
    }


def _in_lanes(made: Sequence[NewExecution], lanes: int) -> list[Prepared]:
    """Each waits for the one before it in its lane, however that ends."""
    before: list[NewExecution | None] = [None] * lanes
    return [
        preparing.waiting(Prepared(row), [Dependency(parent.id, On.ANY)] if parent else ())
        for row, parent in zip(made, [*before, *made], strict=False)
    ]


def _insert(connection: sa.Connection, prepared: Sequence[Prepared], actor: str, now: dt.datetime) -> None:
    executions.insert(connection, [each.row for each in prepared], actor, now)
    dependencies.insert(connection, prepared)


def _enter(connection: sa.Connection, schedule_id: str, items: Sequence[Filled], actor: str, now: dt.datetime) -> None:
    """The ledger says of each that it fired after all."""
    reason = f"backfill by {actor}"
    rows = [
        Occurrence(schedule_id, each.scheduled_for, Outcome.FIRED.value, reason, each.execution_id, now)
        for each in items
    ]
    occurrences.enter(connection, [row for row, item in zip(rows, items, strict=True) if item.was is None])
    occurrences.change(connection, [row for row, item in zip(rows, items, strict=True) if item.was is not None])
