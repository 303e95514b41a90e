"""Requests to cancel executions that are queued or have begun: what the relay reads and writes of them."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables.core import QUEUED_CANCEL_REQUESTED, STARTED_CANCEL_REQUESTED, executions, transitions

_QUEUED_CANCEL_REQUESTED = sa.text(QUEUED_CANCEL_REQUESTED)


@dataclass(frozen=True, slots=True)
class StartedCancelRequest:
    """An execution that has begun and that `actor` wants cancelled; `attempt` is the latest one, `worker` runs it."""

    id: str
    state: ExecutionState
    attempt: int
    worker: str
    actor: str


@dataclass(frozen=True, slots=True)
class QueuedCancelRequest:
    """A Queued execution that `actor` wants cancelled; `attempt` is the last one that was started."""

    id: str
    attempt: int
    actor: str


def list_started_cancel_requests(connection: sa.Connection, limit: int) -> list[StartedCancelRequest]:
    """Return Running and Retrying executions that are to be cancelled."""
    return list(unreadable_rows.read_all(connection.execute(_STARTED_QUERY, {"most": limit}), _read_started))


def list_queued_cancel_requests(connection: sa.Connection, limit: int) -> list[QueuedCancelRequest]:
    """Return Queued executions that are to be cancelled."""
    return list(unreadable_rows.read_all(connection.execute(_QUEUED_QUERY, {"most": limit}), _read_queued))


# Both are asked in every turn; building them would cost more than running them.
_LIMIT = sa.bindparam("most", type_=sa.Integer)
_STARTED_QUERY = (
    sa.select(*(executions.c[name] for name in ("id", "state", "attempt", "worker", "cancel_requested_by")))
    .where(sa.text(STARTED_CANCEL_REQUESTED))
    .limit(_LIMIT)
)
_QUEUED_QUERY = (
    sa.select(executions.c.id, executions.c.attempt, executions.c.cancel_requested_by)
    .where(_QUEUED_CANCEL_REQUESTED)
    .limit(_LIMIT)
)


def _describe_row(row: sa.Row[Any]) -> str:
    return f"request to cancel execution {row.id}"


_read_started = unreadable_rows.build_reader(
    _describe_row, lambda row: StartedCancelRequest(row.id, ExecutionState(row.state), *row[2:]), executions
)
_read_queued = unreadable_rows.build_reader(_describe_row, lambda row: QueuedCancelRequest(*row), executions)


def cancel_revoked(connection: sa.Connection, revoked: Sequence[QueuedCancelRequest], now: dt.datetime) -> None:
    """Enter the state Cancelled for executions whose messages were revoked."""
    reason = "cancelled before it started"
    connection.execute(
        sa.update(executions)
        .where(
            executions.c.id == sa.bindparam("key"),
            executions.c.attempt == sa.bindparam("before"),
            _QUEUED_CANCEL_REQUESTED,
        )
        .values(state=ExecutionState.CANCELLED.value, reason=reason, finished_at=now),
        [{"key": row.id, "before": row.attempt} for row in revoked],
    )
    made = [
        {"execution_id": row.id, "attempt": row.attempt, "state": ExecutionState.CANCELLED.value, "at": now}
        | {"actor": row.actor, "reason": reason}
        for row in revoked
    ]
    connection.execute(build_insert_or_ignore(connection, transitions), made)
