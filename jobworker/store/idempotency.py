"""Answers given under an Idempotency-Key, so that a repeated request gets the same answer."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.store import schema
from jobworker.store.queues import insert_or_ignore

_keys = schema.idempotency_keys

#: A submission that uses a key also forgets up to so many expired ones; this keeps the table small
#: without a chore of its own.
_FORGET_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was answered under a key."""

    key: str
    fingerprint: str
    execution_ids: Sequence[str]
    batch_id: str | None
    created_at: dt.datetime


def reserve(connection: sa.Connection, answer: Remembered, forget_before: dt.datetime) -> Remembered | None:
    """Store `answer`; or, if its key is taken, return what was answered then.

    A key older than `forget_before` counts as free. Two requests with the same key at the same moment:
    the second waits here until the first has committed or rolled back.
    """
    _forget(connection, answer.key, forget_before)
    values = {
        "key": answer.key,
        "fingerprint": answer.fingerprint,
        "execution_ids": list(answer.execution_ids),
        "batch_id": answer.batch_id,
        "created_at": answer.created_at,
    }
    inserted = connection.execute(insert_or_ignore(connection, _keys).values(values))
    return None if inserted.rowcount == 1 else find(connection, answer.key)


def amend(connection: sa.Connection, key: str, execution_ids: Sequence[str]) -> None:
    """Other executions answer, after all, for what was asked under `key`."""
    connection.execute(_keys.update().where(_keys.c.key == key).values(execution_ids=list(execution_ids)))


def find(connection: sa.Connection, key: str) -> Remembered | None:
    """What was answered under `key`."""
    row = connection.execute(sa.select(_keys).where(_keys.c.key == key)).one_or_none()
    if row is None:
        return None
    return Remembered(row.key, row.fingerprint, row.execution_ids, row.batch_id, row.created_at)


def _forget(connection: sa.Connection, key: str, before: dt.datetime) -> None:
    expired = _keys.c.created_at < before
    connection.execute(_keys.delete().where(_keys.c.key == key, expired))
    # Skipping what another transaction is forgetting: two of them must not wait for each other.
    old = sa.select(_keys.c.key).where(expired).limit(_FORGET_AT_ONCE).with_for_update(skip_locked=True)
    connection.execute(_keys.delete().where(_keys.c.key.in_(old)))
