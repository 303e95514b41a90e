"""Holders of unique keys. Expiry is checked lazily, when another execution requests the key."""

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.jobs.limits import UniqueUntil
from jobworker.store import unreadable_rows
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables.core import executions, unique_keys

#: Maximum number of keys deleted in one round of maintenance.
_BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True)
class UniqueKeyRequest:
    """Request of an execution for a unique key: until it has started or finished, or until `expires_at`."""

    key: str
    execution_id: str
    until: UniqueUntil | None
    expires_at: dt.datetime | None
    taken_at: dt.datetime


@dataclass(frozen=True, slots=True)
class UniqueKeyHolder:
    """Execution that holds a requested unique key."""

    id: str
    state: ExecutionState
    started: bool


def acquire(connection: sa.Connection, request: UniqueKeyRequest) -> UniqueKeyHolder | None:
    """Acquire the key for the execution of the request; if another execution holds the key, return that one.

    Of two concurrent transactions the second waits here until the first has ended.
    """
    statement = build_insert_or_ignore(connection, unique_keys).values(**asdict(request))
    if connection.execute(statement).rowcount == 1:
        return None
    query = sa.select(unique_keys).where(unique_keys.c.key == request.key).with_for_update()
    holder = _get_holder(connection, connection.execute(query).one(), request.taken_at)
    if holder is None:
        transfer(connection, request)
    return holder


def transfer(connection: sa.Connection, request: UniqueKeyRequest) -> None:
    """Transfer the key to the execution of the request from any holder."""
    connection.execute(sa.update(unique_keys).where(unique_keys.c.key == request.key).values(**asdict(request)))


def delete_expired(connection: sa.Connection, now: dt.datetime) -> int:
    """Delete expired keys; return their number."""
    timed = unique_keys.c.expires_at
    has_expired = sa.or_(timed < now, sa.and_(timed.is_(None), executions.c.finished_at.is_not(None)))
    query = (
        sa.select(unique_keys.c.key, unique_keys.c.execution_id)
        .join(executions, executions.c.id == unique_keys.c.execution_id)
        .where(has_expired)
        .limit(_BATCH_SIZE)
    )
    expired = connection.execute(query).all()
    if expired:
        # The holder is compared, too, because the key may have been transferred since it was read.
        same_holder = sa.and_(unique_keys.c.key == sa.bindparam("k"), unique_keys.c.execution_id == sa.bindparam("e"))
        connection.execute(
            sa.delete(unique_keys).where(same_holder), [{"k": row.key, "e": row.execution_id} for row in expired]
        )
    return len(expired)


def _get_holder(connection: sa.Connection, key_row: Any, now: dt.datetime) -> UniqueKeyHolder | None:
    columns = executions.c.id, executions.c.state, executions.c.started_attempt
    rows = connection.execute(sa.select(*columns).where(executions.c.id == key_row.execution_id))
    holder = next(unreadable_rows.read_all(rows.all(), _read_holder), None)
    if holder is None:
        return None
    if key_row.expires_at is not None:
        holds = now < key_row.expires_at
    else:
        holds = holder.state not in FINAL_STATES and (key_row.until == UniqueUntil.FINISHED or not holder.started)
    return holder if holds else None


_read_holder = unreadable_rows.build_reader(
    lambda row: f"holder of a unique key, execution {row.id}",
    lambda row: UniqueKeyHolder(row.id, ExecutionState(row.state), row.started_attempt > 0),
)
