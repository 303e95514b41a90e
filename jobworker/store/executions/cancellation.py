"""Cancelling many executions at once."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.store.tables import core

_executions = core.executions
_transitions = core.transitions

#: States in which nothing of an execution is in Redis, so that SQL alone decides.
WAITING_STATES = (ExecutionState.WAITING, ExecutionState.SCHEDULED, ExecutionState.RETRYING)

#: States in which the relay has to see to it.
IN_REDIS_STATES = (ExecutionState.QUEUED, ExecutionState.RUNNING)

#: The states of what has not ended.
UNFINISHED_STATES = tuple(state for state in ExecutionState if state not in FINAL_STATES)


def cancel_waiting(
    connection: sa.Connection, ids: Sequence[str], actor: str, reason: str, now: dt.datetime
) -> list[str]:
    """Those of these executions that wait are Cancelled; answers which."""
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
    """Ask the relay to stop those that are queued or run and were not asked to stop before; answers which."""
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
