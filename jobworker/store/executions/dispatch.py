"""Dispatch: ready, published, lost and running executions, as read and written by the relay."""

import datetime as dt
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import PRIORITIES
from jobworker.store import unreadable_rows
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.database.columns import UNREADABLE_TIME
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.tables.core import PUBLISHED, READY, READY_UNLIMITED, RUNNING, executions

_READY = sa.text(READY)
_FREE = sa.text(READY_UNLIMITED)
_PUBLISHED = sa.text(PUBLISHED)
_RUNNING = sa.text(RUNNING)


@dataclass(frozen=True, slots=True)
class ReadyExecution:
    """Execution whose next attempt may be published, with all data of its message."""

    id: str
    job: str
    job_revision: int
    task: str
    queue: str
    priority: int
    parameters: dict[str, Any]
    attempt: int
    max_attempts: int | None
    lost_attempts: list[int] | None
    interrupted_attempts: list[int] | None
    snoozed_attempts: list[int] | None
    correlation_id: str
    scheduled_for: dt.datetime | None
    overrides: dict[str, Any] | None
    expires_at: dt.datetime | None
    metadata: dict[str, Any] | None
    due_at: dt.datetime
    limit_key: str | None
    call: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class PublishedExecution:
    """Execution whose message is (or was) in Redis."""

    id: str
    queue: str
    urgency: int
    attempt: int
    dispatched_at: dt.datetime
    limit_key: str | None


_read_published = unreadable_rows.build_reader(
    lambda row: f"message of execution {row.id}", lambda row: PublishedExecution(*row), executions
)


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """Attempt that a worker has claimed."""

    id: str
    attempt: int
    worker: str
    started_at: dt.datetime


def _to_running_attempt(row: Any) -> RunningAttempt:
    # Other columns are not checked: an attempt with an unreadable start must be found lost with its worker, too.
    if not (isinstance(row.attempt, int) and isinstance(row.worker, str)):
        raise TypeError(f"attempt {row.attempt!r} runs on worker {row.worker!r}")
    return RunningAttempt(*row)


_read_running = unreadable_rows.build_reader(lambda row: f"running attempt of execution {row.id}", _to_running_attempt)


_NAMES = [item.name for item in fields(ReadyExecution)]
_SHAPE = unreadable_rows.RowShape(executions)
_values = operator.attrgetter(*_NAMES)
_OBJECT_COLUMNS = ("overrides", "metadata", "call")
_NUMBER_LIST_COLUMNS = ("lost_attempts", "interrupted_attempts", "snoozed_attempts")

#: Column types of rows that were valid, because comparing these is faster than checking each column; and their maximum
#: number. Rows with a list are checked each time, because its type does not determine the types of its items.
_valid_types: set[tuple[type, ...]] = set()
_TYPES_CACHE_SIZE = 1000


def check_columns(row: ReadyExecution) -> None:
    """Raise `TypeError` with the name of a column if its value has the wrong type."""
    types = tuple(map(type, _values(row)))
    readable = row.due_at is not UNREADABLE_TIME and row.expires_at is not UNREADABLE_TIME
    if readable and row.scheduled_for is not UNREADABLE_TIME and types in _valid_types:
        return
    _check_each_column(row)
    if list not in types and len(_valid_types) < _TYPES_CACHE_SIZE:
        _valid_types.add(types)


def _check_each_column(row: ReadyExecution) -> None:
    wrong = _SHAPE.find_mismatches(_NAMES, _values(row))
    if wrong:
        raise TypeError(f"{wrong[0]} has the wrong type")
    if not isinstance(row.parameters, dict):
        raise TypeError("parameters is not an object")
    for name in _OBJECT_COLUMNS:
        if not isinstance(getattr(row, name), dict | None):
            raise TypeError(f"{name} is not an object")
    for name in _NUMBER_LIST_COLUMNS:
        value = getattr(row, name)
        if value is not None and not (isinstance(value, list) and all(type(number) is int for number in value)):
            raise TypeError(f"{name} is not a list of numbers")


def list_ready(
    connection: sa.Connection, backlog: QueueBacklog, limit: int, priorities: range = PRIORITIES
) -> list[ReadyExecution]:
    """Return up to `limit` ready executions that are under no limits, most urgent first."""
    parameters = {
        **_build_parameters(backlog),
        "lowest": priorities.start,
        "highest": priorities.stop - 1,
        "count": limit,
    }
    return [ReadyExecution(*row) for row in connection.execute(backlog.exclude_revisions(_READY_QUERY), parameters)]


def list_overtaken(
    connection: sa.Connection, backlog: QueueBacklog, below: int, before: dt.datetime, limit: int
) -> list[ReadyExecution]:
    """Return ready executions under no limits, with a priority under `below` and due since `before`, oldest first."""
    rows: list[ReadyExecution] = []
    parameters = {**_build_parameters(backlog), "count": limit}
    lowest = connection.scalar(_LOWEST_PRIORITY, {"of_queue": backlog.queue})
    query = backlog.exclude_revisions(_OVERTAKEN_QUERY)
    # One query for each priority, because only then the index has this order.
    for priority in range(below if lowest is None else lowest, below):
        priority_parameters = {**parameters, "lowest": priority, "before": before}
        rows += [ReadyExecution(*row) for row in connection.execute(query, priority_parameters)]
    return sorted(rows, key=lambda row: (row.due_at, row.id))[:limit]


def _build_parameters(backlog: QueueBacklog) -> dict[str, Any]:
    return {"of_queue": backlog.queue, "tasks": backlog.tasks}


def get_many(connection: sa.Connection, ids: Sequence[str]) -> list[ReadyExecution]:
    """Return these executions, in no order."""
    rows: list[ReadyExecution] = []
    for chunk in split_ids(ids):
        query = _READY_ROWS.where(executions.c.id.in_(chunk))
        rows += [ReadyExecution(*row) for row in connection.execute(query)]
    return rows


# Statements of every relay turn are built once, because building a statement costs more than running it.
_READY_ROWS: sa.Select[Any] = sa.select(*(executions.c[name] for name in ReadyExecution.__dataclass_fields__))
_OF_QUEUE = executions.c.queue == sa.bindparam("of_queue")
_STARTABLE = (
    executions.c.task.in_(sa.bindparam("tasks", expanding=True)),
    executions.c.cancel_requested_at.is_(None),
)
_READY_QUERY = (
    _READY_ROWS.where(_FREE, _OF_QUEUE, *_STARTABLE)
    .where(executions.c.priority.between(sa.bindparam("lowest"), sa.bindparam("highest")))
    .order_by(executions.c.priority.desc(), executions.c.due_at, executions.c.id)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_OVERTAKEN_QUERY = (
    _READY_ROWS.where(_FREE, _OF_QUEUE, *_STARTABLE)
    .where(executions.c.priority == sa.bindparam("lowest"), executions.c.due_at <= sa.bindparam("before"))
    .order_by(executions.c.due_at, executions.c.id)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_LOWEST_PRIORITY = sa.select(executions.c.priority).where(_FREE, _OF_QUEUE).order_by(executions.c.priority).limit(1)


def mark_published(connection: sa.Connection, published: Iterable[tuple[str, int, int]], now: dt.datetime) -> None:
    """Mark executions (id, previous attempt, urgency) as published, unless they have changed in the meantime."""
    _MARK_PUBLISHED.run(connection, ((*publication, now) for publication in published))


def _build_mark(_dialect: str) -> Any:
    return (
        sa.update(executions)
        .where(executions.c.id == sa.bindparam("key"), executions.c.attempt == sa.bindparam("before"), _READY)
        .values(
            dispatched_at=sa.bindparam("now", type_=executions.c.dispatched_at.type),
            urgency=sa.bindparam("given", type_=executions.c.urgency.type),
        )
    )


_MARK_PUBLISHED = BulkStatement(_build_mark, ("key", "before", "given", "now"))


def list_published_before(connection: sa.Connection, moment: dt.datetime, limit: int) -> list[PublishedExecution]:
    """Return up to `limit` executions published at `moment` or earlier and not claimed, oldest first."""
    rows = connection.execute(
        _PUBLISHED_ROWS.where(_PUBLISHED, executions.c.dispatched_at <= moment)
        .order_by(executions.c.dispatched_at)
        .limit(limit)
    )
    return list(unreadable_rows.read_all(rows, _read_published))


# Rows of older versions have no urgency; their priority is used instead.
_PUBLISHED_ROWS = sa.select(
    *(
        sa.func.coalesce(executions.c.urgency, executions.c.priority).label(name)
        if name == "urgency"
        else executions.c[name]
        for name in PublishedExecution.__dataclass_fields__
    )
)


def update_dispatched_at(
    connection: sa.Connection, lost: Iterable[PublishedExecution], at: dt.datetime | None = None
) -> None:
    """Mark executions whose messages are lost as ready or, with `at`, as published again at that time."""
    parameters = [{"key": row.id, "seen": row.dispatched_at} for row in lost]
    if parameters:
        query = sa.update(executions).where(
            executions.c.id == sa.bindparam("key"), executions.c.dispatched_at == sa.bindparam("seen"), _PUBLISHED
        )
        connection.execute(query.values(dispatched_at=at), parameters)


def mark_unpublished(connection: sa.Connection, messages: Iterable[tuple[str, int]]) -> int:
    """Mark executions whose messages (id, attempt) were removed from Redis as ready; return the number of changes."""
    query = sa.update(executions).where(
        executions.c.id == sa.bindparam("key"), executions.c.attempt == sa.bindparam("before"), _PUBLISHED
    )
    parameters = [{"key": execution, "before": attempt - 1} for execution, attempt in messages]
    return connection.execute(query.values(dispatched_at=None), parameters).rowcount if parameters else 0


def mark_all_unpublished(connection: sa.Connection, before: dt.datetime) -> int:
    """Mark all executions published at `before` or earlier as ready; return their number.

    Executions under limits keep their slots until maintenance finds them, because they may run without a report yet.
    """
    changed = connection.execute(
        sa.update(executions)
        .where(_PUBLISHED, executions.c.dispatched_at <= before, executions.c.limit_key.is_(None))
        .values(dispatched_at=None)
    )
    return changed.rowcount


def list_running(connection: sa.Connection, worker: str | None = None) -> list[RunningAttempt]:
    """Return the running attempts of all workers or of one worker."""
    query = sa.select(executions.c.id, executions.c.attempt, executions.c.worker, executions.c.started_at).where(
        _RUNNING
    )
    if worker is not None:
        query = query.where(executions.c.worker == worker)
    return list(unreadable_rows.read_all(connection.execute(query), _read_running))
