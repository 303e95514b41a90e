"""Probes of the database: a read, and a write that leaves no rows behind."""

import datetime as dt
import uuid

import sqlalchemy as sa

from jobworker.store.database.database import Database
from jobworker.store.tables.core import rate_buckets

#: Locks of a submission on PostgreSQL. SQLite has one lock for all tables.
_LOCK_TABLES = sa.text("LOCK TABLE executions, transitions, idempotency_keys IN ROW EXCLUSIVE MODE")


def check_write(database: Database, now: dt.datetime) -> None:
    """Insert a row, delete it and commit, under the locks of a submission.

    Raises the errors of a submission, for instance on a full disk. The transaction is committed, because SQLite
    would not write a rolled-back transaction to the disk.
    """
    key = f"probe:{uuid.uuid4()}"
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(_LOCK_TABLES)
        connection.execute(sa.insert(rate_buckets).values(key=key, full_at=now))
        connection.execute(sa.delete(rate_buckets).where(rate_buckets.c.key == key))


def check_read(database: Database) -> None:
    """Run a trivial query; raise if the database does not respond."""
    with database.read() as connection:
        connection.execute(sa.text("SELECT 1"))
