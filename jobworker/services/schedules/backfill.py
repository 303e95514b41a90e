"""Backfill: creates executions for the past occurrences of a schedule that have none, as a batch.

At most `concurrency` executions of the batch run at a time: they form as many chains, to which the occurrences are
assigned round robin, and each execution depends on the one before it in its chain. The schedule is not affected:
occurrences that become due meanwhile do not wait for a backfill.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import Conflict, FieldError, InvalidInput, TaskNotFound, format_pointer
from jobworker.domain.jobs import limits
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import Schedule
from jobworker.domain.schedules.timetable import Timetable, describe_exclusion
from jobworker.domain.schedules.timetable import iterate_occurrences as moments
from jobworker.domain.workflows.dependency import Dependency, RequiredOutcome
from jobworker.services.schedules import execution_factory, schedules
from jobworker.services.schedules import occurrences as occurrence_services
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.submissions.preparation import JobCatalog, PreparedExecution
from jobworker.services.workflows import dependency_checks, resolution
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.schedules import occurrence_rows, schedule_rows
from jobworker.store.schedules.occurrence_rows import OccurrenceRow
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.tasks import TaskRow
from jobworker.store.workflows import batches, dependency_rows
from jobworker.store.workflows.batches import BatchKind, NewBatch

#: Maximum number of executions that one backfill creates.
MAX_EXECUTIONS = 10_000

#: Maximum concurrency of a backfill.
MAX_CONCURRENCY = 1000

#: Maximum number of nominal times examined before a range is rejected as too large.
_MAX_OCCURRENCES_EXAMINED = 5 * MAX_EXECUTIONS

#: Earliest start of a range; an earlier one is a typing error.
_EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_TICK = dt.timedelta(microseconds=1)


class BackfillOrder(StrEnum):
    """Order in which occurrences run."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """The nominal times in [begin, end), and how to run them. `parameters` override those of the schedule."""

    begin: dt.datetime
    end: dt.datetime
    order: BackfillOrder = BackfillOrder.OLDEST_FIRST
    concurrency: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class BackfilledOccurrence:
    """A nominal time that gets an execution: its previous outcome (None: not recorded) and the execution's id."""

    scheduled_for: dt.datetime
    was: str | None
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """Result of a backfill or its dry run: occurrences in the order of their runs, and skip counts by reason.

    Reasons: `fired` (the occurrence has an execution already), `forbidden` (a calendar excludes it), `pending` (the
    schedule evaluates it soon by itself), `duplicate` (another execution has the unique key).
    """

    items: Sequence[BackfilledOccurrence]
    skip_counts: Mapping[str, int]
    batch_id: str | None = None


def backfill_schedule(
    database: Database, clock: Clock, name: str, request: BackfillRequest, actor: str
) -> BackfillResult:
    """Create executions for past occurrences without one. Raises `InvalidInput` for an invalid range."""
    now = clock.now()
    _check_range(request, now)
    with database.read() as connection:
        row = schedules.find(connection, name)
        timetable = occurrence_services.get_timetable(connection, row)
        nominal_times = _list_nominal_times(timetable, request)
        if request.dry_run:
            chosen = _select_occurrences(connection, row, timetable, nominal_times, request)
            if chosen.items:
                _look_up_job(row, preparation.load_catalog(connection, [row.job]), request)
            return chosen
    with database.write() as connection:
        schedule_rows.lock(connection, row.id)
        current = schedules.find(connection, row.id)
        if current.revision != row.revision:
            raise Conflict(f"schedule {row.name} was changed by another request in the meantime; try again")
        chosen = _select_occurrences(connection, current, timetable, nominal_times, request)
        return _insert_backfill(connection, current, chosen, request, actor, now) if chosen.items else chosen


def _check_range(request: BackfillRequest, now: dt.datetime) -> None:
    if request.begin < _EARLIEST:
        _raise_not_allowed("from", f"from must be {_EARLIEST.isoformat()} or later")
    if request.end <= request.begin:
        _raise_not_allowed("to", f"to must be later than from, {request.begin.isoformat()}")
    if request.end > now:
        _raise_not_allowed("to", f"to must not be in the future: it is {now.isoformat(timespec='seconds')} now")


def _raise_not_allowed(name: str, message: str) -> None:
    raise InvalidInput(message, [FieldError(format_pointer(name), "not_allowed", message)])


def _list_nominal_times(timetable: Timetable, request: BackfillRequest) -> list[dt.datetime]:
    """Return the nominal times of the range, those before the schedule was created included."""
    nominal_times = list(islice(moments(timetable, request.begin - _TICK, request.end), _MAX_OCCURRENCES_EXAMINED + 1))
    if len(nominal_times) > _MAX_OCCURRENCES_EXAMINED:
        _raise_too_many(f"more than {_MAX_OCCURRENCES_EXAMINED} occurrences")
    return nominal_times


def _raise_too_many(number: str) -> None:
    message = f"the range has {number} to backfill; at most {MAX_EXECUTIONS} at a time: divide it"
    raise InvalidInput(message, [FieldError("/to", "too_many", message)])


def _select_occurrences(
    connection: sa.Connection,
    row: ScheduleRow,
    timetable: Timetable,
    nominal_times: Sequence[dt.datetime],
    request: BackfillRequest,
) -> BackfillResult:
    """Return the occurrences without an execution, in the order of their runs, and the skip counts."""
    recorded = occurrence_rows.find_between(connection, row.id, request.begin, request.end)
    left_out = dict.fromkeys(("fired", "forbidden", "pending", "duplicate"), 0)
    items: list[BackfilledOccurrence] = []
    for nominal in nominal_times:
        occurrence = recorded.get(nominal)
        if occurrence is not None and occurrence.outcome == OccurrenceOutcome.FIRED:
            left_out["fired"] += 1
        elif describe_exclusion(timetable, nominal) is not None:
            left_out["forbidden"] += 1
        elif occurrence is None and row.enabled and row.next_at is not None and nominal >= row.next_at:
            left_out["pending"] += 1
        else:
            items.append(BackfilledOccurrence(nominal, occurrence.outcome if occurrence else None))
    if len(items) > MAX_EXECUTIONS:
        _raise_too_many(f"{len(items)} occurrences")
    return BackfillResult(items if request.order is BackfillOrder.OLDEST_FIRST else items[::-1], left_out)


def _insert_backfill(
    connection: sa.Connection,
    row: ScheduleRow,
    selected: BackfillResult,
    request: BackfillRequest,
    actor: str,
    now: dt.datetime,
) -> BackfillResult:
    catalog = preparation.load_catalog(connection, [row.job])
    batch_id = preparation.make_id(now)
    new_executions = _build_executions(row, catalog, selected.items, request, batch_id, now)
    decided = uniqueness.acquire_keys(connection, new_executions, catalog.get_unique_policies(), now)
    accepted = {execution.scheduled_for: execution.id for execution in decided.accepted}
    items = [
        BackfilledOccurrence(item.scheduled_for, item.was, accepted[item.scheduled_for])
        for item in selected.items
        if item.scheduled_for in accepted
    ]
    left_out = {**selected.skip_counts, "duplicate": len(selected.items) - len(items)}
    if not items:
        return BackfillResult((), left_out)
    name = f"backfill of {row.name}"[:128]
    batches.insert(connection, NewBatch(batch_id, BatchKind.BACKFILL, name, batch_id, None, now, actor))
    _insert_executions(connection, _limit_concurrency(decided.accepted, request.concurrency), actor, now)
    _record_occurrences(connection, row.id, items, actor, now)
    resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, decided.cancelled), now)
    return BackfillResult(items, left_out, batch_id)


def _look_up_job(
    row: ScheduleRow, catalog: JobCatalog, request: BackfillRequest
) -> tuple[JobRow, TaskRow, dict[str, Any]]:
    """Return job, task and checked parameters of the executions. Raises the reason why they cannot run."""
    execution_factory.check_runnable(catalog, row.job, f"schedule {row.name} cannot be backfilled")
    job = catalog.jobs[row.job]
    task = catalog.tasks.get(job.definition.task)
    if task is None:
        raise TaskNotFound(f"job {row.job} runs task {job.definition.task}, which no worker announced yet")
    parameters = {**job.definition.defaults, **row.schedule.parameters, **request.parameters}
    return job, task, preparation.check_parameters(task.parameters, parameters, "/parameters")


def _build_executions(
    row: ScheduleRow,
    catalog: JobCatalog,
    items: Sequence[BackfilledOccurrence],
    request: BackfillRequest,
    batch_id: str,
    now: dt.datetime,
) -> list[NewExecution]:
    """Build the executions, due now. Raises the reason why they cannot run."""
    job, task, parameters = _look_up_job(row, catalog, request)
    schedule, definition = row.schedule, job.definition
    own = {
        "schedule_id": row.id,
        "batch_id": batch_id,
        "correlation_id": batch_id,
        **_choose_routing(schedule, definition.queue, definition.priority),
        **limits.compute_keys(definition.name, definition.policies, parameters, task.parameters)._asdict(),
    }
    return [
        preparation.build_execution(
            definition,
            job.revision,
            parameters,
            now,
            id=preparation.make_id(now),
            scheduled_for=item.scheduled_for,
            **own,
        )
        for item in items
    ]


def _choose_routing(schedule: Schedule, queue: str, priority: int) -> dict[str, Any]:
    return {
        "queue": schedule.queue or queue,
        "priority": priority if schedule.priority is None else schedule.priority,
    }


def _limit_concurrency(new_executions: Sequence[NewExecution], lanes: int) -> list[PreparedExecution]:
    """Make each execution depend on the end (in any state) of the one `lanes` places before it."""
    before: list[NewExecution | None] = [None] * lanes
    return [
        preparation.add_dependencies(
            PreparedExecution(row), [Dependency(parent.id, RequiredOutcome.ANY)] if parent else ()
        )
        for row, parent in zip(new_executions, [*before, *new_executions], strict=False)
    ]


def _insert_executions(
    connection: sa.Connection, prepared: Sequence[PreparedExecution], actor: str, now: dt.datetime
) -> None:
    executions.insert(connection, [execution.row for execution in prepared], actor, now)
    dependency_checks.insert(connection, prepared)


def _record_occurrences(
    connection: sa.Connection, schedule_id: str, items: Sequence[BackfilledOccurrence], actor: str, now: dt.datetime
) -> None:
    """Record the outcome `fired` of each occurrence."""
    reason = f"backfill by {actor}"
    rows = [
        OccurrenceRow(schedule_id, item.scheduled_for, OccurrenceOutcome.FIRED.value, reason, item.execution_id, now)
        for item in items
    ]
    occurrence_rows.insert(connection, [row for row, item in zip(rows, items, strict=True) if item.was is None])
    occurrence_rows.update(connection, [row for row, item in zip(rows, items, strict=True) if item.was is not None])
