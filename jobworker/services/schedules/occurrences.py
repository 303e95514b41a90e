"""Use cases of occurrences: list recorded ones, list upcoming ones, fire one by hand."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import Conflict, FieldError, IdempotencyKeyReused, InvalidInput
from jobworker.domain.schedules.schedule import OverlapPolicy, Schedule, load_schedule
from jobworker.domain.schedules.timetable import Timetable
from jobworker.services.schedules import compiler, evaluator, execution_factory, schedules, upcoming
from jobworker.services.schedules.upcoming import ExpectedOccurrence
from jobworker.services.submissions import commit, preparation
from jobworker.services.submissions.commit import IdempotencyKey, SubmissionContext
from jobworker.store import unreadable_rows
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, idempotency
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.idempotency import IdempotencyRecord
from jobworker.store.pagination import DEFAULT_LIMIT, Page
from jobworker.store.schedules import occurrence_rows, schedule_rows
from jobworker.store.schedules.occurrence_rows import OccurrenceFilters, OccurrenceRow
from jobworker.store.schedules.schedule_rows import ScheduleRow


@dataclass(frozen=True, slots=True)
class FiredOccurrence:
    """An occurrence fired by hand, and its execution; None: the overlap policy skipped the occurrence."""

    timetable: Timetable
    occurrence: OccurrenceRow
    execution: ExecutionRow | None


def list_recorded(
    database: Database, name: str, time_range: OccurrenceFilters, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> tuple[Timetable, Page[OccurrenceRow]]:
    """Return the recorded occurrences of a schedule, the latest first; a removed schedule is found by its id.

    Raises `ScheduleNotFound`, and `InvalidInput` for a range that does not end after its beginning.
    """
    _check_range(time_range)
    with database.read() as connection:
        kept = schedules.find_reference(connection, name)
        with unreadable_rows.convert_errors(f"schedule {kept.name}"):
            timetable = (
                get_timetable(connection, kept.row)
                if kept.row
                else _build_timetable_without_calendars(load_schedule(kept.spec))
            )
        return timetable, occurrence_rows.list_page(connection, kept.id, time_range, limit, cursor)


def list_upcoming(
    database: Database, name: str, time_range: OccurrenceFilters, count: int
) -> Sequence[ExpectedOccurrence]:
    """Return those of the next `count` unevaluated occurrences that are in the range.

    Raises the errors of `list_recorded`, and `Conflict` if the schedule cannot be read.
    """
    _check_range(time_range)
    begin, end = time_range.begin, time_range.end
    with database.read() as connection:
        row = schedules.find(connection, name)
        rules = get_timetable(connection, row)
        closed = execution_factory.get_blocked_reason(preparation.load_catalog(connection, [row.job]), row.job)
    after = row.settled_until
    if begin is not None and begin > after:
        after = begin - dt.timedelta(microseconds=1)
    with unreadable_rows.convert_errors(f"schedule {row.name}"):
        expected_occurrences = upcoming.list_expected_for_schedule(row, rules, closed, after, count)
    return [occurrence for occurrence in expected_occurrences if end is None or occurrence.at < end]


def get_timetable(connection: sa.Connection, row: ScheduleRow) -> Timetable:
    """Return the timetable of a schedule. Raises `Conflict` if the schedule cannot be read."""
    plan = compiler.compile_schedules(connection, [row]).get(row.id)
    if plan is None:
        message = f"schedule {row.name} cannot be read by this version, or a calendar of it is gone; change it"
        raise Conflict(message)
    return plan.timetable


def _check_range(time_range: OccurrenceFilters) -> None:
    if time_range.begin is not None and time_range.end is not None and time_range.end <= time_range.begin:
        message = f"to must be later than from, {time_range.begin.isoformat()}"
        raise InvalidInput(message, [FieldError("to", "not_allowed", message)])


def _build_timetable_without_calendars(schedule: Schedule) -> Timetable:
    """Build the timetable of a removed schedule; its calendars may have changed or been removed."""
    return replace(schedule, calendar=None, require=(), exclude=()).build_timetable({})


def fire(
    database: Database,
    clock: Clock,
    name: str,
    overlap: OverlapPolicy | None,
    actor: str,
    idempotency_key: IdempotencyKey | None = None,
) -> FiredOccurrence:
    """Fire a schedule now. With an Idempotency-Key that was used before, return the original occurrence."""
    fingerprint = commit.compute_fingerprint([name, overlap], "fire")
    request = SubmissionContext(actor, clock.now(), idempotency_key, fingerprint)
    with database.write() as connection:
        row = schedules.find(connection, name)
        # A concurrent request with an equal key waits here.
        schedule_rows.lock(connection, row.id)
        earlier = commit.find_replay(connection, request)
        if earlier is not None:
            return _load_fired(connection, row, earlier.execution_ids[0])
        decision = evaluator.fire_now(connection, row, request.now, actor, overlap)
        occurrence = occurrence_rows.get(connection, row.id, decision.nominal)
        assert occurrence is not None, "it was just recorded"
        if occurrence.execution_id is None:
            return FiredOccurrence(get_timetable(connection, row), occurrence, None)
        _reserve_key(connection, request, occurrence.execution_id)
        return _load_fired(connection, row, occurrence.execution_id)


def _load_fired(connection: sa.Connection, row: ScheduleRow, execution_id: str) -> FiredOccurrence:
    execution = executions.get(connection, execution_id)
    assert execution is not None, "executions are kept"
    assert execution.scheduled_for is not None, "it was made by a schedule"
    occurrence = occurrence_rows.get(connection, row.id, execution.scheduled_for)
    assert occurrence is not None, "an occurrence is kept"
    return FiredOccurrence(get_timetable(connection, row), occurrence, execution)


def _reserve_key(connection: sa.Connection, request: SubmissionContext, execution_id: str) -> None:
    idempotency_key = request.idempotency_key
    if idempotency_key is None:
        return
    answer = IdempotencyRecord(idempotency_key.key, request.fingerprint, [execution_id], None, request.now)
    if idempotency.reserve(connection, answer, request.now - dt.timedelta(seconds=idempotency_key.ttl)) is not None:
        raise IdempotencyKeyReused(f"Idempotency-Key {idempotency_key.key} was used for another request; use a new key")
