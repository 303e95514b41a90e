"""A write that leaves nothing behind, to see whether the database takes writes."""

import datetime as dt
import uuid

import sqlalchemy as sa

from jobworker.store.engine.database import Database
from jobworker.store.tables.core import rate_buckets

#: The locks of a submission. SQLite has one for all tables.
_LOCK_TABLES = sa.text("LOCK TABLE executions, transitions, idempotency_keys IN ROW EXCLUSIVE MODE")


def check_write(database: Database, now: dt.datetime) -> None:
    """Insert a row, delete it and commit, under the locks of a submission.

    Raises what a submission would raise, on a full disk for instance.

    Rolled back, SQLite would never write to the disk.
    """
    key = f"probe:{uuid.uuid4()}"
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(_LOCK_TABLES)
        connection.execute(sa.insert(rate_buckets).values(key=key, full_at=now))
        connection.execute(sa.delete(rate_buckets).where(rate_buckets.c.key == key))


def check_read(database: Database) -> None:
    """Ask the database for an answer of any kind."""
    with database.read() as connection:
        connection.execute(sa.text("SELECT 1"))
