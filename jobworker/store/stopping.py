"""Requests to cancel executions that are queued or have begun: what the relay reads and writes of them."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.execution import State
from jobworker.store import unreadable
from jobworker.store.queues import insert_or_ignore
from jobworker.store.schema import CANCEL_ASKED, STOP_ASKED, executions, transitions

_CANCEL_ASKED = sa.text(CANCEL_ASKED)


@dataclass(frozen=True, slots=True)
class StopAsked:
    """An execution that has begun and that `actor` wants cancelled; `attempt` is the latest one, `worker` runs it."""

    id: str
    state: State
    attempt: int
    worker: str
    actor: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A Queued execution that `actor` wants cancelled; `attempt` is the last one that was started."""

    id: str
    attempt: int
    actor: str


def asked(connection: sa.Connection, limit: int) -> list[StopAsked]:
    """Return Running and Retrying executions that are to be cancelled."""
    return list(unreadable.those(connection.execute(_STOP_QUERY, {"most": limit}), _read_stop))


def cancel_asked(connection: sa.Connection, limit: int) -> list[CancelAsked]:
    """Return Queued executions that are to be cancelled."""
    return list(unreadable.those(connection.execute(_CANCEL_QUERY, {"most": limit}), _read_cancel))


# Both are asked in every turn; building them would cost more than running them.
_MOST = sa.bindparam("most", type_=sa.Integer)
_STOP_QUERY = (
    sa.select(*(executions.c[name] for name in ("id", "state", "attempt", "worker", "cancel_requested_by")))
    .where(sa.text(STOP_ASKED))
    .limit(_MOST)
)
_CANCEL_QUERY = (
    sa.select(executions.c.id, executions.c.attempt, executions.c.cancel_requested_by).where(_CANCEL_ASKED).limit(_MOST)
)


def _what(row: sa.Row[Any]) -> str:
    return f"request to cancel execution {row.id}"


_read_stop = unreadable.reader(_what, lambda row: StopAsked(row.id, State(row.state), *row[2:]), executions)
_read_cancel = unreadable.reader(_what, lambda row: CancelAsked(*row), executions)


def cancel_revoked(connection: sa.Connection, revoked: Sequence[CancelAsked], now: dt.datetime) -> None:
    """Enter the state Cancelled for executions whose messages were revoked."""
    reason = "cancelled before it started"
    connection.execute(
        sa.update(executions)
        .where(executions.c.id == sa.bindparam("key"), executions.c.attempt == sa.bindparam("before"), _CANCEL_ASKED)
        .values(state=State.CANCELLED.value, reason=reason, finished_at=now),
        [{"key": row.id, "before": row.attempt} for row in revoked],
    )
    made = [
        {"execution_id": row.id, "attempt": row.attempt, "state": State.CANCELLED.value, "at": now}
        | {"actor": row.actor, "reason": reason}
        for row in revoked
    ]
    connection.execute(insert_or_ignore(connection, transitions), made)
