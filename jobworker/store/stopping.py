"""What somebody wants stopped that has begun: the relay's question about executions that run."""

from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.execution import State
from jobworker.store.schema import STOP_ASKED, executions


@dataclass(frozen=True, slots=True)
class StopAsked:
    """An execution that has begun and that `actor` wants cancelled; `attempt` is the latest one, `worker` runs it."""

    id: str
    state: State
    attempt: int
    worker: str
    actor: str


def asked(connection: sa.Connection, limit: int) -> list[StopAsked]:
    """Running and Retrying executions that somebody wants cancelled."""
    columns = [executions.c[name] for name in ("id", "state", "attempt", "worker", "cancel_requested_by")]
    rows = connection.execute(sa.select(*columns).where(sa.text(STOP_ASKED)).limit(limit))
    return [StopAsked(row.id, State(row.state), *row[2:]) for row in rows]
