"""Who keeps others with its unique key out. Whether it still does is looked up when somebody else comes."""

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.jobs.limits import UniqueUntil
from jobworker.store import unreadable_rows
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables.core import executions, unique_keys

#: Keys that one round of tidying drops.
_BATCH_SIZE = 1000


@dataclass(frozen=True, slots=True)
class UniqueKeyRequest:
    """An execution that wants a key: until it has started or finished, or until `expires_at`."""

    key: str
    execution_id: str
    until: UniqueUntil | None
    expires_at: dt.datetime | None
    taken_at: dt.datetime


@dataclass(frozen=True, slots=True)
class UniqueKeyHolder:
    """An execution that has the key that another one wants."""

    id: str
    state: ExecutionState
    started: bool


def acquire(connection: sa.Connection, request: UniqueKeyRequest) -> UniqueKeyHolder | None:
    """Give the key to the claim's execution, or say who holds it.

    Of two transactions that ask at once the second waits here until the first has ended.
    """
    given = build_insert_or_ignore(connection, unique_keys).values(**asdict(request))
    if connection.execute(given).rowcount == 1:
        return None
    query = sa.select(unique_keys).where(unique_keys.c.key == request.key).with_for_update()
    holder = _get_holder(connection, connection.execute(query).one(), request.taken_at)
    if holder is None:
        transfer(connection, request)
    return holder


def transfer(connection: sa.Connection, request: UniqueKeyRequest) -> None:
    """Give the key to the claim's execution, whoever holds it."""
    connection.execute(sa.update(unique_keys).where(unique_keys.c.key == request.key).values(**asdict(request)))


def delete_expired(connection: sa.Connection, now: dt.datetime) -> int:
    """Drop keys that keep nobody out any more; answers how many."""
    timed = unique_keys.c.expires_at
    over = sa.or_(timed < now, sa.and_(timed.is_(None), executions.c.finished_at.is_not(None)))
    query = (
        sa.select(unique_keys.c.key, unique_keys.c.execution_id)
        .join(executions, executions.c.id == unique_keys.c.execution_id)
        .where(over)
        .limit(_BATCH_SIZE)
    )
    found = connection.execute(query).all()
    if found:
        # By its holder, too: the key may have changed hands since it was read.
        mine = sa.and_(unique_keys.c.key == sa.bindparam("k"), unique_keys.c.execution_id == sa.bindparam("e"))
        connection.execute(sa.delete(unique_keys).where(mine), [{"k": row.key, "e": row.execution_id} for row in found])
    return len(found)


def _get_holder(connection: sa.Connection, taken: Any, now: dt.datetime) -> UniqueKeyHolder | None:
    columns = executions.c.id, executions.c.state, executions.c.started_attempt
    rows = connection.execute(sa.select(*columns).where(executions.c.id == taken.execution_id))
    holder = next(unreadable_rows.read_all(rows.all(), _read_holder), None)
    if holder is None:
        return None
    if taken.expires_at is not None:
        holds = now < taken.expires_at
    else:
        holds = holder.state not in FINAL_STATES and (taken.until == UniqueUntil.FINISHED or not holder.started)
    return holder if holds else None


_read_holder = unreadable_rows.build_reader(
    lambda row: f"holder of a unique key, execution {row.id}",
    lambda row: UniqueKeyHolder(row.id, ExecutionState(row.state), row.started_attempt > 0),
)
