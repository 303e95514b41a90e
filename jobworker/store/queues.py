"""Queues that were ever submitted to, or paused."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.store import bulk, schema
from jobworker.store.bulk import Bulk


def remember(connection: sa.Connection, names: Collection[str], now: dt.datetime) -> None:
    """Add the names that are not there yet. Sorted, so that two transactions cannot wait for each other."""
    _REMEMBER.run(connection, [(name, now) for name in sorted(set(names))])


def names(connection: sa.Connection) -> list[str]:
    """Every queue's name."""
    return list(connection.scalars(sa.select(schema.queues.c.name).order_by(schema.queues.c.name)))


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue; `paused_at` is None unless somebody has stopped it."""

    name: str
    paused_at: dt.datetime | None = None
    paused_by: str | None = None
    pause_note: str | None = None


_ROWS = sa.select(*(schema.queues.c[name] for name in QueueRow.__dataclass_fields__)).order_by(schema.queues.c.name)


def all(connection: sa.Connection) -> list[QueueRow]:
    """Every queue, by name."""
    return [QueueRow(*row) for row in connection.execute(_ROWS)]


def get(connection: sa.Connection, name: str, lock: bool = False) -> QueueRow | None:
    """One queue; `lock` keeps other transactions from changing it before this one ends."""
    query = _ROWS.where(schema.queues.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return QueueRow(*row) if row is not None else None


def pause(connection: sa.Connection, row: QueueRow) -> None:
    """Write who has paused the queue, and why; or that nobody has."""
    values = {name: getattr(row, name) for name in ("paused_at", "paused_by", "pause_note")}
    connection.execute(sa.update(schema.queues).where(schema.queues.c.name == row.name).values(**values))


def published(connection: sa.Connection) -> dict[str, int]:
    """How many messages of each queue are with the workers and have not started."""
    return _count(connection, schema.PUBLISHED)


def running(connection: sa.Connection) -> dict[str, int]:
    """How many executions of each queue run."""
    return _count(connection, schema.RUNNING)


def _count(connection: sa.Connection, condition: str) -> dict[str, int]:
    queue = schema.executions.c.queue
    query = sa.select(queue, sa.func.count()).where(sa.text(condition)).group_by(queue)
    return {row[0]: row[1] for row in connection.execute(query)}


def insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING in this database's dialect; the row count tells whether it was new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # SQLAlchemy forgets the count on PostgreSQL (-1) unless it is told to keep it.
    return dialect.insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


_NAMES = ("name", "created_at")
_REMEMBER = Bulk(bulk.insert_or_ignore(schema.queues, _NAMES), _NAMES)
