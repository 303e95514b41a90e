"""Executions: submission, lists and cancel requests. `store.executions.history` records the reports of workers."""

import datetime as dt
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.database import bulk_statements
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.executions.execution_filters import ExecutionFilters, build_conditions
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_id_key
from jobworker.store.tables import core

_executions = core.executions
_transitions = core.transitions


@dataclass(frozen=True, slots=True)
class NewExecution:
    """New execution, as inserted by a submission."""

    id: str
    job: str
    job_revision: int
    task: str
    max_attempts: int | None
    queue: str
    priority: int
    parameters: Mapping[str, Any]
    correlation_id: str
    batch_id: str | None
    schedule_id: str | None
    scheduled_for: dt.datetime | None
    due_at: dt.datetime
    state: ExecutionState
    overrides: Mapping[str, Any] | None = None
    rerun_of: str | None = None
    expires_at: dt.datetime | None = None
    concurrency_key: str | None = None
    rate_key: str | None = None
    limit_key: str | None = None
    unique_key: str | None = None
    step: str | None = None
    waiting_for: int | None = None
    triggered_by: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """Current row of an execution."""

    id: str
    job: str
    job_revision: int
    task: str
    state: ExecutionState
    reason: str | None
    attempt: int
    max_attempts: int | None
    queue: str
    priority: int
    parameters: Mapping[str, Any]
    result: Any
    result_file: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    worker: str | None
    code_version: str | None
    correlation_id: str
    overrides: Mapping[str, Any] | None
    batch_id: str | None
    step: str | None
    waiting_for: int | None
    triggered_by: str | None
    schedule_id: str | None
    scheduled_for: dt.datetime | None
    created_at: dt.datetime
    created_by: str
    due_at: dt.datetime
    expires_at: dt.datetime | None
    dispatched_at: dt.datetime | None
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    cancel_requested_at: dt.datetime | None
    cancel_requested_by: str | None
    rerun_of: str | None
    dead_letter: str | None
    dead_letter_at: dt.datetime | None
    dead_letter_by: str | None
    dead_letter_note: str | None
    fingerprint: str | None
    concurrency_key: str | None
    rate_key: str | None
    unique_key: str | None


_COLUMNS = [_executions.c[item.name] for item in fields(ExecutionRow)]

# Statements of submissions are built once, because building a statement costs as much as running it.
_BY_ID = sa.select(*_COLUMNS).where(_executions.c.id == sa.bindparam("id"))
_BY_ID_LOCKED = _BY_ID.with_for_update()
_LAST_SUCCESS = (
    sa.select(*_COLUMNS)
    .where(sa.text(core.SUCCEEDED), _executions.c.job == sa.bindparam("job"), _executions.c.id < sa.bindparam("before"))
    .order_by(_executions.c.id.desc())
    .limit(1)
)
_STATE = sa.select(_executions.c.state).where(_executions.c.id == sa.bindparam("id"))

# One statement for each index of ready executions, because only then SQLite uses the index.
_READY_BACKLOG = [
    sa.select(_executions.c.queue, sa.func.count(), sa.func.min(_executions.c.due_at))
    .where(sa.text(condition))
    .group_by(_executions.c.queue)
    for condition in (core.READY_UNLIMITED, core.READY_LIMITED)
]
_OF_QUEUE = _executions.c.queue == sa.bindparam("queue")
_READY_BACKLOG_IN_QUEUE = [query.where(_OF_QUEUE) for query in _READY_BACKLOG]

_NEW_COLUMNS = [item.name for item in fields(NewExecution)]
_DEFAULT_COLUMNS = ("attempt", "started_attempt", "event_id", "created_at", "created_by")
_INSERT_COLUMNS = [*_NEW_COLUMNS, *_DEFAULT_COLUMNS]
_INSERT = BulkStatement(bulk_statements.build_insert(_executions, _INSERT_COLUMNS), _INSERT_COLUMNS)
_TRANSITION_COLUMNS = ["execution_id", "attempt", "state", "at", "actor", "reason"]
_INSERT_TRANSITION = BulkStatement(bulk_statements.build_insert(_transitions, _TRANSITION_COLUMNS), _TRANSITION_COLUMNS)

_COPIED_FIELDS = [item.name for item in fields(ExecutionRow) if item.name in _NEW_COLUMNS]
#: Reasons of the first transition, by state.
_FIRST_REASONS = {
    ExecutionState.QUEUED: "submitted",
    ExecutionState.SCHEDULED: "submitted for later",
    ExecutionState.WAITING: "submitted; it waits for others",
}

#: Fields that only later events set.
_EMPTY_FIELDS: Mapping[str, Any] = dict.fromkeys(
    {item.name for item in fields(ExecutionRow)} - {*_NEW_COLUMNS, "attempt", "created_at", "created_by"}
)


def insert(connection: sa.Connection, rows: Sequence[NewExecution], actor: str, now: dt.datetime) -> None:
    """Insert executions and their first transitions."""
    insert_for_actors(connection, rows, [actor] * len(rows), now)


def insert_for_actors(
    connection: sa.Connection, rows: Sequence[NewExecution], actors: Sequence[str], now: dt.datetime
) -> None:
    """Insert executions of several actors, one actor for each row, and their first transitions."""
    read_columns = operator.attrgetter(*_NEW_COLUMNS)
    by = list(zip(rows, actors, strict=True))
    _INSERT.run(connection, [(*read_columns(row), 0, 0, "0-0", now, actor) for row, actor in by])
    _INSERT_TRANSITION.run(
        connection, [(row.id, 0, row.state, now, actor, _describe_submission(row)) for row, actor in by]
    )


def _describe_submission(row: NewExecution) -> str:
    if row.rerun_of is not None:
        return f"rerun of {row.rerun_of}"
    if row.scheduled_for is not None:
        return f"the occurrence of {row.scheduled_for.isoformat()}"
    if row.triggered_by is not None:
        return f"triggered by the end of {row.triggered_by}"
    return _FIRST_REASONS[row.state]


def build_inserted_row(row: NewExecution, actor: str, now: dt.datetime) -> ExecutionRow:
    """Build the row of an execution right after `insert`, without a query."""
    copied_values = {name: getattr(row, name) for name in _COPIED_FIELDS}
    return ExecutionRow(**copied_values, **_EMPTY_FIELDS, attempt=0, created_at=now, created_by=actor)


def get(connection: sa.Connection, execution_id: str, lock: bool = False) -> ExecutionRow | None:
    """Return the execution with this id; `lock` keeps other transactions from changing it until this one ends."""
    row = connection.execute(_BY_ID_LOCKED if lock else _BY_ID, {"id": execution_id}).one_or_none()
    return _to_row(row) if row is not None else None


def get_many(connection: sa.Connection, ids: Sequence[str]) -> list[ExecutionRow]:
    """Return the existing executions among `ids`, ordered by id."""
    query = sa.select(*_COLUMNS).where(_executions.c.id.in_(ids)).order_by(_executions.c.id)
    return list(unreadable_rows.read_all(connection.execute(query), _to_row))


def get_last_success(connection: sa.Connection, job: str, before: str) -> ExecutionRow | None:
    """Return the latest succeeded execution of `job` with an id below `before`."""
    row = connection.execute(_LAST_SUCCESS, {"job": job, "before": before}).one_or_none()
    return _to_row(row) if row is not None else None


def get_state(connection: sa.Connection, execution_id: str) -> ExecutionState | None:
    """Return only the state, for clients that poll until the end. Raises `UnreadableRow`."""
    state = connection.scalar(_STATE, {"id": execution_id})
    if state is None:
        return None
    with unreadable_rows.convert_errors(f"state of execution {execution_id}"):
        return ExecutionState(state)


def list_page(
    connection: sa.Connection, filters: ExecutionFilters, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ExecutionRow]:
    """Return a page of executions that pass the filters, newest first."""
    listing = Paginator("executions", asdict(filters), parse_id_key)
    query = sa.select(*_COLUMNS).where(*build_conditions(filters)).order_by(_executions.c.id.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_executions.c.id < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.id, _to_row, _describe_row)


def cancel_waiting(connection: sa.Connection, execution_id: str, actor: str, reason: str, now: dt.datetime) -> bool:
    """Cancel a Waiting, Scheduled or Retrying execution; return False in any other state."""
    row = connection.execute(
        _executions.update()
        .where(
            _executions.c.id == execution_id,
            _executions.c.state.in_([ExecutionState.WAITING, ExecutionState.SCHEDULED, ExecutionState.RETRYING]),
        )
        .values(
            state=ExecutionState.CANCELLED,
            reason=reason,
            finished_at=now,
            cancel_requested_at=now,
            cancel_requested_by=actor,
        )
        .returning(_executions.c.attempt)
    ).one_or_none()
    if row is None:
        return False
    values = {"state": ExecutionState.CANCELLED, "attempt": row.attempt, "at": now, "actor": actor, "reason": reason}
    connection.execute(_transitions.insert().values(execution_id=execution_id, **values))
    return True


def request_cancel(connection: sa.Connection, execution_id: str, actor: str, now: dt.datetime) -> bool:
    """Request cancellation of a Queued or Running execution; keep an earlier request. Return False in other states."""
    requested_at = sa.func.coalesce(_executions.c.cancel_requested_at, now)
    requested_by = sa.func.coalesce(_executions.c.cancel_requested_by, actor)
    changed = connection.execute(
        _executions.update()
        .where(
            _executions.c.id == execution_id, _executions.c.state.in_([ExecutionState.QUEUED, ExecutionState.RUNNING])
        )
        .values(cancel_requested_at=requested_at, cancel_requested_by=requested_by)
    )
    return changed.rowcount == 1


def count_unfinished(connection: sa.Connection) -> dict[ExecutionState, int]:
    """Count the executions in each state that is not final, from the index alone."""
    counts = {}
    for unfinished in (
        ExecutionState.WAITING,
        ExecutionState.SCHEDULED,
        ExecutionState.QUEUED,
        ExecutionState.RUNNING,
        ExecutionState.RETRYING,
    ):
        query = sa.select(sa.func.count()).select_from(_executions).where(_executions.c.state == unfinished)
        counts[unfinished] = connection.scalar(query) or 0
    return counts


def get_queue_backlog(connection: sa.Connection, queue: str) -> tuple[int, dt.datetime | None]:
    """Return the number of ready executions of a queue and the earliest due time."""
    return _merge_by_queue(
        row for query in _READY_BACKLOG_IN_QUEUE for row in connection.execute(query, {"queue": queue})
    ).get(queue, (0, None))


def count_ready_before(connection: sa.Connection, row: ExecutionRow) -> int:
    """Count the ready executions of its queue that are more urgent than this one, or as urgent and due earlier."""
    same = sa.and_(_executions.c.queue == row.queue, _executions.c.priority == row.priority)
    older = sa.tuple_(_executions.c.due_at, _executions.c.id) < sa.tuple_(sa.literal(row.due_at), sa.literal(row.id))
    more_urgent = sa.and_(_executions.c.queue == row.queue, _executions.c.priority > row.priority)
    queries = [
        sa.select(sa.func.count()).select_from(_executions).where(sa.text(condition), part)
        for condition in (core.READY_UNLIMITED, core.READY_LIMITED)
        for part in (more_urgent, sa.and_(same, older))
    ]
    return sum(connection.scalar(query) or 0 for query in queries)


def get_backlogs(connection: sa.Connection) -> dict[str, tuple[int, dt.datetime]]:
    """Return the number of ready executions and the earliest due time of each queue that has any."""
    return _merge_by_queue(row for query in _READY_BACKLOG for row in connection.execute(query))


def _merge_by_queue(rows: Iterable[Any]) -> dict[str, tuple[int, dt.datetime]]:
    """Merge the rows (queue, number, earliest due time) of each queue."""
    totals: dict[str, tuple[int, dt.datetime]] = {}
    for queue, number, oldest in rows:
        before, since = totals.get(queue, (0, oldest))
        totals[queue] = (before + number, min(since, oldest))
    return totals


#: Checks of the JSON columns of an execution.
_JSON_CHECKS = {
    "parameters": unreadable_rows.is_object,
    "result": unreadable_rows.is_json,
    "result_file": unreadable_rows.build_object_check(name=str, size=int, sha256=str, host=str),
    "error": unreadable_rows.build_object_check(type=str, message=str),
    "progress": unreadable_rows.is_object,
    "metadata": unreadable_rows.is_object,
    "overrides": unreadable_rows.is_object,
}
_SHAPE = unreadable_rows.RowShape(_executions, _JSON_CHECKS, {"state": ExecutionState})


def _describe_row(row: Any) -> str:
    return f"execution {row.id}"


def _to_row(row: sa.Row[Any]) -> ExecutionRow:
    return ExecutionRow(**unreadable_rows.repair_row(_describe_row(row), dict(row._mapping), _SHAPE))
