"""Bulk cancellation of executions, and the cancel requests that the relay processes."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables import core

_executions = core.executions
_transitions = core.transitions

_QUEUED_CANCEL_REQUESTED = sa.text(core.QUEUED_CANCEL_REQUESTED)

#: States in which an execution has no message in Redis, so that SQL alone decides.
WAITING_STATES = (ExecutionState.WAITING, ExecutionState.SCHEDULED, ExecutionState.RETRYING)

#: States in which the relay carries out a cancellation.
IN_REDIS_STATES = (ExecutionState.QUEUED, ExecutionState.RUNNING)

#: States of executions that have not ended.
UNFINISHED_STATES = tuple(state for state in ExecutionState if state not in FINAL_STATES)


@dataclass(frozen=True, slots=True)
class StartedCancelRequest:
    """Cancel request of `actor` for a started execution; `attempt` is the latest one, `worker` runs it."""

    id: str
    state: ExecutionState
    attempt: int
    worker: str
    actor: str


@dataclass(frozen=True, slots=True)
class QueuedCancelRequest:
    """Cancel request of `actor` for a Queued execution; `attempt` is the last started one."""

    id: str
    attempt: int
    actor: str


def cancel_waiting(
    connection: sa.Connection, ids: Sequence[str], actor: str, reason: str, now: dt.datetime
) -> list[str]:
    """Cancel the executions among `ids` in `WAITING_STATES`; return their ids."""
    changed = connection.execute(
        _executions.update()
        .where(_executions.c.id.in_(ids), _executions.c.state.in_(WAITING_STATES))
        .values(
            state=ExecutionState.CANCELLED,
            reason=reason,
            finished_at=now,
            cancel_requested_at=now,
            cancel_requested_by=actor,
        )
        .returning(_executions.c.id, _executions.c.attempt)
    ).all()
    entered = [
        {"execution_id": row.id, "attempt": row.attempt, "state": ExecutionState.CANCELLED.value}
        | {"at": now, "actor": actor, "reason": reason}
        for row in changed
    ]
    if entered:
        connection.execute(_transitions.insert(), entered)
    return [row.id for row in changed]


def request_cancel(connection: sa.Connection, ids: Sequence[str], actor: str, now: dt.datetime) -> list[str]:
    """Request cancellation of the Queued and Running executions without a request; return their ids."""
    changed = connection.execute(
        _executions.update()
        .where(
            _executions.c.id.in_(ids),
            _executions.c.state.in_(IN_REDIS_STATES),
            _executions.c.cancel_requested_at.is_(None),
        )
        .values(cancel_requested_at=now, cancel_requested_by=actor)
        .returning(_executions.c.id)
    )
    return list(changed.scalars())


def list_started_cancel_requests(connection: sa.Connection, limit: int) -> list[StartedCancelRequest]:
    """Return cancel requests for Running and Retrying executions."""
    return list(unreadable_rows.read_all(connection.execute(_STARTED_QUERY, {"most": limit}), _read_started))


def list_queued_cancel_requests(connection: sa.Connection, limit: int) -> list[QueuedCancelRequest]:
    """Return cancel requests for Queued executions."""
    return list(unreadable_rows.read_all(connection.execute(_QUEUED_QUERY, {"most": limit}), _read_queued))


# Both statements run in every relay turn; building them would cost more than running them.
_LIMIT = sa.bindparam("most", type_=sa.Integer)
_STARTED_QUERY = (
    sa.select(*(_executions.c[name] for name in ("id", "state", "attempt", "worker", "cancel_requested_by")))
    .where(sa.text(core.STARTED_CANCEL_REQUESTED))
    .limit(_LIMIT)
)
_QUEUED_QUERY = (
    sa.select(_executions.c.id, _executions.c.attempt, _executions.c.cancel_requested_by)
    .where(_QUEUED_CANCEL_REQUESTED)
    .limit(_LIMIT)
)


def _describe_row(row: sa.Row[Any]) -> str:
    return f"request to cancel execution {row.id}"


_read_started = unreadable_rows.build_reader(
    _describe_row, lambda row: StartedCancelRequest(row.id, ExecutionState(row.state), *row[2:]), _executions
)
_read_queued = unreadable_rows.build_reader(_describe_row, lambda row: QueuedCancelRequest(*row), _executions)


def cancel_revoked(connection: sa.Connection, revoked: Sequence[QueuedCancelRequest], now: dt.datetime) -> None:
    """Set the state Cancelled for executions whose messages were revoked."""
    reason = "cancelled before it started"
    connection.execute(
        sa.update(_executions)
        .where(
            _executions.c.id == sa.bindparam("key"),
            _executions.c.attempt == sa.bindparam("before"),
            _QUEUED_CANCEL_REQUESTED,
        )
        .values(state=ExecutionState.CANCELLED.value, reason=reason, finished_at=now),
        [{"key": row.id, "before": row.attempt} for row in revoked],
    )
    new_transitions = [
        {"execution_id": row.id, "attempt": row.attempt, "state": ExecutionState.CANCELLED.value, "at": now}
        | {"actor": row.actor, "reason": reason}
        for row in revoked
    ]
    connection.execute(build_insert_or_ignore(connection, _transitions), new_transitions)
