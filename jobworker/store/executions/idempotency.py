"""Idempotency keys, with which a repeated request gets the first response."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables import core

_keys = core.idempotency_keys

#: Maximum number of expired keys that a submission with a key deletes; this keeps the table small without a separate
#: maintenance task.
_FORGET_BATCH_SIZE = 100


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """Stored response of an idempotency key."""

    key: str
    fingerprint: str
    execution_ids: Sequence[str]
    batch_id: str | None
    created_at: dt.datetime


def reserve(
    connection: sa.Connection, record: IdempotencyRecord, forget_before: dt.datetime
) -> IdempotencyRecord | None:
    """Insert `record`; if its key exists, return the stored record.

    A key older than `forget_before` counts as free. Of two concurrent requests with one key, the second waits here
    until the first has committed or rolled back.
    """
    _delete_expired(connection, record.key, forget_before)
    values = {
        "key": record.key,
        "fingerprint": record.fingerprint,
        "execution_ids": list(record.execution_ids),
        "batch_id": record.batch_id,
        "created_at": record.created_at,
    }
    inserted = connection.execute(build_insert_or_ignore(connection, _keys).values(values))
    return None if inserted.rowcount == 1 else get(connection, record.key)


def update_execution_ids(connection: sa.Connection, key: str, execution_ids: Sequence[str]) -> None:
    """Replace the execution ids of the response of `key`."""
    connection.execute(_keys.update().where(_keys.c.key == key).values(execution_ids=list(execution_ids)))


def get(connection: sa.Connection, key: str) -> IdempotencyRecord | None:
    """Return the record of `key`."""
    row = connection.execute(sa.select(_keys).where(_keys.c.key == key)).one_or_none()
    if row is None:
        return None
    return IdempotencyRecord(row.key, row.fingerprint, row.execution_ids, row.batch_id, row.created_at)


def _delete_expired(connection: sa.Connection, key: str, before: dt.datetime) -> None:
    expired = _keys.c.created_at < before
    connection.execute(_keys.delete().where(_keys.c.key == key, expired))
    # Rows that another transaction is deleting are skipped, because two transactions must not deadlock.
    old = sa.select(_keys.c.key).where(expired).limit(_FORGET_BATCH_SIZE).with_for_update(skip_locked=True)
    connection.execute(_keys.delete().where(_keys.c.key.in_(old)))
