"""The names of queues that were ever submitted to."""

import datetime as dt
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.store import schema
from jobworker.store.bulk import Bulk


def remember(connection: sa.Connection, names: Collection[str], now: dt.datetime) -> None:
    """Add the names that are not there yet. Sorted, so that two transactions cannot wait for each other."""
    _REMEMBER.run(connection, [(name, now) for name in sorted(set(names))])


def names(connection: sa.Connection) -> list[str]:
    """Every queue's name."""
    return list(connection.scalars(sa.select(schema.queues.c.name).order_by(schema.queues.c.name)))


def insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING in this database's dialect; the row count tells whether it was new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # SQLAlchemy forgets the count on PostgreSQL (-1) unless it is told to keep it.
    return dialect.insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _insert(dialect: str) -> Any:
    values = {name: sa.bindparam(name, type_=schema.queues.c[name].type) for name in _NAMES}
    return (
        (postgresql if dialect == "postgresql" else sqlite)
        .insert(schema.queues)
        .values(values)
        .on_conflict_do_nothing()
    )


_NAMES = ("name", "created_at")
_REMEMBER = Bulk(_insert, _NAMES)
