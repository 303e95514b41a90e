"""Executions whose due time or start deadline has passed."""

import datetime as dt

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.submissions import start_deadline
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables.core import EXPIRING, WAITING_FOR_TIME, executions, transitions

_WAITING_FOR_TIME = sa.text(WAITING_FOR_TIME)
_EXPIRING = sa.text(EXPIRING)


def release_due(connection: sa.Connection, now: dt.datetime, limit: int) -> int:
    """Set due Scheduled and Retrying executions to Queued; return their number."""
    due = connection.execute(_DUE, {"now": now, "most": limit}).all()
    if not due:
        return 0
    connection.execute(
        sa.update(executions)
        .where(executions.c.id == sa.bindparam("key"), _WAITING_FOR_TIME)
        .values(state=ExecutionState.QUEUED.value, reason=None, dispatched_at=None),
        [{"key": row.id} for row in due],
    )
    moved = [
        {
            "execution_id": row.id,
            "attempt": row.attempt,
            "state": ExecutionState.QUEUED.value,
            "at": now,
            "actor": "relay",
            "reason": "due",
        }
        for row in due
    ]
    connection.execute(build_insert_or_ignore(connection, transitions), moved)
    return len(due)


def expire_executions(connection: sa.Connection, now: dt.datetime, limit: int) -> list[str]:
    """Skip unpublished executions whose start deadline has passed; return their ids.

    The worker skips published executions, because their message contains the deadline, too.
    """
    late = connection.execute(_EXPIRED, {"now": now, "most": limit}).all()
    if not late:
        return []
    reasons = [(row.id, start_deadline.describe_missed_deadline(row.expires_at)) for row in late]
    connection.execute(
        sa.update(executions)
        .where(executions.c.id == sa.bindparam("key"))
        .values(state=ExecutionState.SKIPPED.value, reason=sa.bindparam("why"), finished_at=now),
        [{"key": key, "why": why} for key, why in reasons],
    )
    entered = [
        {
            "execution_id": key,
            "attempt": 0,
            "state": ExecutionState.SKIPPED.value,
            "at": now,
            "actor": "relay",
            "reason": why,
        }
        for key, why in reasons
    ]
    connection.execute(build_insert_or_ignore(connection, transitions), entered)
    return [key for key, _ in reasons]


def get_next_due(connection: sa.Connection) -> dt.datetime | None:
    """Return the next due time of Scheduled and Retrying executions, or the next start deadline if that is earlier."""
    moments = [connection.scalar(_NEXT_DUE), connection.scalar(_NEXT_DEADLINE)]
    return min((moment for moment in moments if moment is not None), default=None)


# Statements of every relay turn are built once, because building a statement costs more than running it.
_DUE = (
    sa.select(executions.c.id, executions.c.attempt)
    .where(_WAITING_FOR_TIME, executions.c.due_at <= sa.bindparam("now", type_=executions.c.due_at.type))
    .order_by(executions.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_EXPIRED = (
    sa.select(executions.c.id, executions.c.expires_at)
    .where(_EXPIRING, executions.c.expires_at <= sa.bindparam("now", type_=executions.c.expires_at.type))
    .order_by(executions.c.expires_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_NEXT_DUE = sa.select(executions.c.due_at).where(_WAITING_FOR_TIME).order_by(executions.c.due_at).limit(1)
_NEXT_DEADLINE = sa.select(executions.c.expires_at).where(_EXPIRING).order_by(executions.c.expires_at).limit(1)
