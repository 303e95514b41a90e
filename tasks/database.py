"""The SQLite database of the examples: one table, `domain_entities`. It is filled when it is first opened."""

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from jobworker.settings import Settings

#: Number of entities in a database that was filled automatically.
SMALL = 500

KINDS = ("customer", "device", "document", "order")
STATUSES = ("active", "inactive", "archived")

#: Frequency of each status among the examples, in the order of `STATUSES`.
_WEIGHTS = (7, 2, 1)

#: Average number of entities per user.
_PER_USER = 25

_SCHEMA = """
CREATE TABLE IF NOT EXISTS domain_entities (
    id INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    last_active_at TEXT NOT NULL
)
"""
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS ix_domain_entities_user_id ON domain_entities (user_id, id)",
    "CREATE INDEX IF NOT EXISTS ix_domain_entities_last_active_at ON domain_entities (last_active_at)",
)

#: Statement that inserts an entity; SQLite provides the time, in UTC and in a format that sorts.
_INSERT = """
INSERT INTO domain_entities (user_id, name, kind, status, created_at, last_active_at)
VALUES (?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?), strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?))
"""

_MINUTES_PER_DAY = 24 * 60


def path() -> Path:
    """Return the path of the database, which is beside JobWorker's own data."""
    return Settings.from_environment().home / "example.db"


@contextlib.contextmanager
def opened() -> Iterator[sqlite3.Connection]:
    """Yield a connection to the database, which is created and filled if it does not exist."""
    path().parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path(), timeout=30, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        if not _has_table(connection):
            with transaction(connection):
                # Another process may have filled the database while this one waited for the lock.
                if not _has_table(connection):
                    _fill(connection, SMALL)
        yield connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a write transaction: committed when the block ends, rolled back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def count(connection: sqlite3.Connection) -> int:
    """Return the number of entities."""
    number: int = connection.execute("SELECT count(*) FROM domain_entities").fetchone()[0]
    return number


def replace_all(connection: sqlite3.Connection, entities: int) -> None:
    """Replace all entities by new ones."""
    with transaction(connection):
        connection.execute("DELETE FROM domain_entities")
        _fill(connection, entities)


def _has_table(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'domain_entities'")
    return found.fetchone() is not None


def _fill(connection: sqlite3.Connection, entities: int) -> None:
    for statement in (_SCHEMA, *_INDEXES):
        connection.execute(statement)
    connection.executemany(_INSERT, _examples(entities))


def _examples(entities: int) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yield generated entities, equal each time except for the time."""
    chance = random.Random(entities)
    users = max(1, entities // _PER_USER)
    for number in range(1, entities + 1):
        kind = chance.choice(KINDS)
        status = chance.choices(STATUSES, _WEIGHTS)[0]
        created = chance.randrange(1, 720 * _MINUTES_PER_DAY)
        # An active entity was seen within the last month; the others some time after their creation.
        active = chance.randrange(min(created, 30 * _MINUTES_PER_DAY) if status == "active" else created)
        user = f"u-{chance.randrange(users) + 1}"
        yield user, f"{kind} {number}", kind, status, f"-{created} minutes", f"-{active} minutes"
