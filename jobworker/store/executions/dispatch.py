"""What is due, what was published, what was lost on the way: the relay's questions about executions."""

import datetime as dt
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import PRIORITIES
from jobworker.store import unreadable_rows
from jobworker.store.engine.bulk import BulkStatement
from jobworker.store.engine.columns import UNREADABLE_TIME
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.tables.core import PUBLISHED, READY, READY_UNLIMITED, RUNNING, executions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK_SIZE = 5_000

_READY = sa.text(READY)
_FREE = sa.text(READY_UNLIMITED)
_PUBLISHED = sa.text(PUBLISHED)
_RUNNING = sa.text(RUNNING)


@dataclass(frozen=True, slots=True)
class ReadyExecution:
    """An execution whose next attempt may be published, with all that its message needs."""

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
    """An execution whose message is (or was) in Redis."""

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
    """An attempt that a worker has claimed."""

    id: str
    attempt: int
    worker: str
    started_at: dt.datetime


def _to_running_attempt(row: Any) -> RunningAttempt:
    # Not all columns: an attempt whose start cannot be read has to be found lost with its worker, too.
    if not (isinstance(row.attempt, int) and isinstance(row.worker, str)):
        raise TypeError(f"attempt {row.attempt!r} runs on worker {row.worker!r}")
    return RunningAttempt(*row)


_read_running = unreadable_rows.build_reader(lambda row: f"running attempt of execution {row.id}", _to_running_attempt)


_NAMES = [item.name for item in fields(ReadyExecution)]
_SHAPE = unreadable_rows.RowShape(executions)
_values = operator.attrgetter(*_NAMES)
_OBJECT_COLUMNS = ("overrides", "metadata", "call")
_NUMBER_LIST_COLUMNS = ("lost_attempts", "interrupted_attempts", "snoozed_attempts")

#: Types of whole rows that were found right, which a look at each column would take longer to tell, and most of them.
#: A list does not tell the types of what it holds, so rows with one are looked at each time.
_valid_types: set[tuple[type, ...]] = set()
_TYPES_CACHE_SIZE = 1000


def check_columns(row: ReadyExecution) -> None:
    """Raise `TypeError` naming a column of this row that does not hold what is kept there."""
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
        raise TypeError("parameters is no object")
    for name in _OBJECT_COLUMNS:
        if not isinstance(getattr(row, name), dict | None):
            raise TypeError(f"{name} is no object")
    for name in _NUMBER_LIST_COLUMNS:
        value = getattr(row, name)
        if value is not None and not (isinstance(value, list) and all(type(each) is int for each in value)):
            raise TypeError(f"{name} is no list of numbers")


def list_ready(
    connection: sa.Connection, backlog: QueueBacklog, limit: int, priorities: range = PRIORITIES
) -> list[ReadyExecution]:
    """What may be published and is under no limit, the most urgent first."""
    given = {**_build_parameters(backlog), "lowest": priorities.start, "highest": priorities.stop - 1, "count": limit}
    return [ReadyExecution(*row) for row in connection.execute(backlog.exclude_revisions(_READY_QUERY), given)]


def list_overtaken(
    connection: sa.Connection, backlog: QueueBacklog, below: int, before: dt.datetime, limit: int
) -> list[ReadyExecution]:
    """As `ready`, but what is less urgent than `below` and has been due since `before`; the oldest first."""
    found: list[ReadyExecution] = []
    given = {**_build_parameters(backlog), "count": limit}
    lowest = connection.scalar(_LOWEST_PRIORITY, {"of_queue": backlog.queue})
    query = backlog.exclude_revisions(_OVERTAKEN_QUERY)
    # Priority by priority, because only so the index has them in this order.
    for priority in range(below if lowest is None else lowest, below):
        asked = {**given, "lowest": priority, "before": before}
        found += [ReadyExecution(*row) for row in connection.execute(query, asked)]
    return sorted(found, key=lambda row: (row.due_at, row.id))[:limit]


def _build_parameters(backlog: QueueBacklog) -> dict[str, Any]:
    return {"of_queue": backlog.queue, "tasks": backlog.tasks}


def get_many(connection: sa.Connection, ids: Sequence[str]) -> list[ReadyExecution]:
    """These of what may be published, in no order."""
    found: list[ReadyExecution] = []
    for start in range(0, len(ids), _CHUNK_SIZE):
        query = _READY_ROWS.where(executions.c.id.in_(ids[start : start + _CHUNK_SIZE]))
        found += [ReadyExecution(*row) for row in connection.execute(query)]
    return found


# The statements of every turn are built once: building one costs more than running it.
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
    """Note (id, attempt before, urgency) as published; those that have moved on meanwhile stay as they are."""
    _MARK_PUBLISHED.run(connection, ((*one, now) for one in published))


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
    """Messages that nobody has claimed since `moment`, the oldest first."""
    found = connection.execute(
        _PUBLISHED_ROWS.where(_PUBLISHED, executions.c.dispatched_at <= moment)
        .order_by(executions.c.dispatched_at)
        .limit(limit)
    )
    return list(unreadable_rows.read_all(found, _read_published))


# Rows from before there were urgencies have none: theirs is the priority.
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
    """These messages are gone: their executions are ready once more, or (`at`) were just published again."""
    given = [{"key": row.id, "seen": row.dispatched_at} for row in lost]
    if given:
        query = sa.update(executions).where(
            executions.c.id == sa.bindparam("key"), executions.c.dispatched_at == sa.bindparam("seen"), _PUBLISHED
        )
        connection.execute(query.values(dispatched_at=at), given)


def mark_unpublished(connection: sa.Connection, messages: Iterable[tuple[str, int]]) -> int:
    """These messages (id, attempt) are out of Redis again: ready once more, unless it went on; answers how many."""
    query = sa.update(executions).where(
        executions.c.id == sa.bindparam("key"), executions.c.attempt == sa.bindparam("before"), _PUBLISHED
    )
    given = [{"key": execution, "before": attempt - 1} for execution, attempt in messages]
    return connection.execute(query.values(dispatched_at=None), given).rowcount if given else 0


def mark_all_unpublished(connection: sa.Connection, before: dt.datetime) -> int:
    """Every message published before then is gone; answers how many there were.

    Those under limits keep their places until `mend` finds them: some may run already, and nobody has heard of it.
    """
    changed = connection.execute(
        sa.update(executions)
        .where(_PUBLISHED, executions.c.dispatched_at <= before, executions.c.limit_key.is_(None))
        .values(dispatched_at=None)
    )
    return changed.rowcount


def list_running(connection: sa.Connection, worker: str | None = None) -> list[RunningAttempt]:
    """What is running, everywhere or on one worker."""
    query = sa.select(executions.c.id, executions.c.attempt, executions.c.worker, executions.c.started_at).where(
        _RUNNING
    )
    if worker is not None:
        query = query.where(executions.c.worker == worker)
    return list(unreadable_rows.read_all(connection.execute(query), _read_running))
