"""Batches and workflows. Their states are counted from an index, so no counter can drift."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.executions.cancellation import IN_REDIS_STATES, UNFINISHED_STATES, WAITING_STATES
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_id_key
from jobworker.store.tables import core
from jobworker.store.tables.dependencies import BATCH_CANCELLING, batches, dependencies

_executions = core.executions


class BatchKind(StrEnum):
    """Kind of a batch."""

    BATCH = "batch"
    WORKFLOW = "workflow"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class NewBatch:
    """New batch. `on_complete` has job, parameters, queue and priority."""

    id: str
    kind: BatchKind
    name: str | None
    correlation_id: str
    on_complete: Mapping[str, Any] | None
    created_at: dt.datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Current row of a batch."""

    id: str
    kind: BatchKind
    name: str | None
    correlation_id: str
    on_complete: Mapping[str, Any] | None
    created_at: dt.datetime
    created_by: str
    cancel_requested_at: dt.datetime | None
    cancel_requested_by: str | None
    completed_at: dt.datetime | None
    completion_id: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """Step of a workflow."""

    step: str
    execution_id: str
    job: str
    state: ExecutionState
    reason: str | None


_COLUMNS = [batches.c[item.name] for item in fields(BatchRow)]


def insert(connection: sa.Connection, batch: NewBatch) -> None:
    """Insert a batch; its executions are inserted in the transaction of the caller."""
    values = {item.name: getattr(batch, item.name) for item in fields(NewBatch)}
    connection.execute(batches.insert().values({**values, "kind": batch.kind.value}))


def get(connection: sa.Connection, batch_id: str) -> BatchRow | None:
    """Return the batch with this id."""
    row = connection.execute(sa.select(*_COLUMNS).where(batches.c.id == batch_id)).one_or_none()
    return _to_row(row) if row is not None else None


def lock_open(connection: sa.Connection, batch_id: str) -> BatchRow | None:
    """Lock and return the batch unless it is complete, so that one transaction at a time checks for completion."""
    query = sa.select(*_COLUMNS).where(batches.c.id == batch_id, batches.c.completed_at.is_(None))
    row = connection.execute(query.with_for_update()).one_or_none()
    return _to_row(row) if row is not None else None


def list_page(connection: sa.Connection, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[BatchRow]:
    """Return a page of batches, newest first."""
    listing = Paginator("batches", {}, parse_id_key)
    query = sa.select(*_COLUMNS).order_by(batches.c.id.desc()).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(batches.c.id < after)
    return listing.read_page(connection.execute(query).all(), limit, lambda row: row.id, _to_row, _describe_row)


def count_by_state(connection: sa.Connection, batch_ids: Sequence[str]) -> dict[str, dict[ExecutionState, int]]:
    """Count the executions of each of these batches by state, without states that no execution has."""
    query = (
        sa.select(_executions.c.batch_id, _executions.c.state, sa.func.count().label("number"))
        .where(_executions.c.batch_id.in_(batch_ids))
        .group_by(_executions.c.batch_id, _executions.c.state)
    )
    counts: dict[str, dict[ExecutionState, int]] = {batch_id: {} for batch_id in batch_ids}
    for batch, state, number in unreadable_rows.read_all(connection.execute(query), _read_count):
        counts[batch][state] = number
    return counts


_read_count = unreadable_rows.build_reader(
    lambda row: f"state {row.state!r} of executions of batch {row.batch_id}",
    lambda row: (row.batch_id, ExecutionState(row.state), row.number),
)


def has_unfinished(connection: sa.Connection, batch_id: str) -> bool:
    """Return whether an execution of the batch has not ended."""
    conditions = (_executions.c.batch_id == batch_id, _executions.c.state.in_(UNFINISHED_STATES))
    return connection.execute(sa.select(_executions.c.state).where(*conditions).limit(1)).first() is not None


def mark_completed(
    connection: sa.Connection, batch_id: str, now: dt.datetime, completion_id: str | None, problem: str | None
) -> None:
    """Mark a batch as completed, because its last execution has ended."""
    values = {"completed_at": now, "completion_id": completion_id, "problem": problem}
    connection.execute(batches.update().where(batches.c.id == batch_id).values(values))


def list_steps(connection: sa.Connection, batch_id: str) -> list[StepRow]:
    """Return the steps of a workflow in the order of their submission."""
    columns = (_executions.c.step, _executions.c.id, _executions.c.job, _executions.c.state, _executions.c.reason)
    query = sa.select(*columns).where(_executions.c.batch_id == batch_id).order_by(_executions.c.id)
    return list(unreadable_rows.read_all(connection.execute(query), _read_step))


_read_step = unreadable_rows.build_reader(
    lambda row: f"step {row.step} of the workflow, execution {row.id}",
    lambda row: StepRow(row.step, row.id, row.job, ExecutionState(row.state), row.reason),
    _executions,
)


def get_parents(connection: sa.Connection, batch_id: str) -> dict[str, list[str]]:
    """Return the ids of the parents of each execution of a batch, by execution id."""
    query = (
        sa.select(dependencies.c.execution_id, dependencies.c.parent_id)
        .join(_executions, _executions.c.id == dependencies.c.execution_id)
        .where(_executions.c.batch_id == batch_id)
        .order_by(dependencies.c.parent_id)
    )
    parents: dict[str, list[str]] = {}
    for row in connection.execute(query):
        parents.setdefault(row.execution_id, []).append(row.parent_id)
    return parents


def request_cancel(connection: sa.Connection, batch_id: str, actor: str, now: dt.datetime) -> bool:
    """Request cancellation of a batch. Return False if the batch is complete or was cancelled before."""
    changed = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.completed_at.is_(None), batches.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now, cancel_requested_by=actor)
    )
    return changed.rowcount == 1


def list_cancelling(connection: sa.Connection) -> list[BatchRow]:
    """Return the batches whose cancellation was requested, with executions that it has not reached yet."""
    return list(unreadable_rows.read_all(connection.execute(_CANCELLING_QUERY), _to_row))


def _build_cancelling_query() -> sa.Select[Any]:
    not_requested = sa.and_(_executions.c.state.in_(IN_REDIS_STATES), _executions.c.cancel_requested_at.is_(None))
    to_cancel = sa.or_(_executions.c.state.in_(WAITING_STATES), not_requested)
    members = sa.select(_executions.c.id).where(_executions.c.batch_id == batches.c.id, to_cancel)
    return sa.select(*_COLUMNS).where(sa.text(BATCH_CANCELLING), members.exists()).order_by(batches.c.id)


# Runs in every relay turn; building the statement would cost more than running it.
_CANCELLING_QUERY = _build_cancelling_query()


def request_cancel_members(connection: sa.Connection, batch: BatchRow) -> int:
    """Request cancellation of the Queued and Running executions of a batch; return the number of new requests."""
    changed = connection.execute(
        _executions.update()
        .where(
            _executions.c.batch_id == batch.id,
            _executions.c.state.in_(IN_REDIS_STATES),
            _executions.c.cancel_requested_at.is_(None),
        )
        .values(cancel_requested_at=batch.cancel_requested_at, cancel_requested_by=batch.cancel_requested_by)
    )
    return changed.rowcount


def list_waiting(connection: sa.Connection, batch_id: str, limit: int) -> list[str]:
    """Return the ids of up to `limit` executions of the batch in `WAITING_STATES`, which have no message in Redis."""
    query = sa.select(_executions.c.id).where(
        _executions.c.batch_id == batch_id, _executions.c.state.in_(WAITING_STATES)
    )
    return list(connection.scalars(query.order_by(_executions.c.id).limit(limit)))


def list_open_after(connection: sa.Connection, batch_id: str, limit: int) -> list[str]:
    """Return the ids of the next `limit` incomplete batches after this id."""
    query = sa.select(batches.c.id).where(batches.c.completed_at.is_(None), batches.c.id > batch_id)
    return list(connection.scalars(query.order_by(batches.c.id).limit(limit)))


def _describe_row(row: Any) -> str:
    return f"batch {row.id}"


def _to_row(row: sa.Row[Any]) -> BatchRow:
    return BatchRow(**unreadable_rows.repair_row(_describe_row(row), dict(row._mapping), _SHAPE))


_SHAPE = unreadable_rows.RowShape(batches, {"on_complete": unreadable_rows.is_object}, {"kind": BatchKind})
