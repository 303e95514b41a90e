"""SQLite's write-ahead log: readers block no writer, and the log does not grow without limit."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock, SystemClock
from jobworker.domain.errors import DatabaseBusy
from jobworker.store import queues
from jobworker.store.database import database as module
from jobworker.store.database import write_ahead_log
from jobworker.store.database.database import Database, DatabaseTimeouts
from jobworker.store.tables import core
from tests.conftest import NOW

#: Maximum wait of a writer (s): far below the 10 s of earlier versions, and far above the time on a busy machine.
_MAX_WAIT_SECONDS = 4.0


@pytest.fixture
def reader(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Connection of another program that reads in one transaction."""
    with contextlib.closing(sqlite3.connect(get_path(sqlite_url), isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM queues").fetchone()
        yield connection


def get_path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def write_rows(database: Database, name: str) -> None:
    """Write about 200 kB."""
    with database.write() as connection:
        rows = [{"name": f"{name}-{number}", "created_at": NOW, "pause_note": "x" * 500} for number in range(300)]
        connection.execute(sa.insert(core.queues), rows)


def test_checkpoint_does_not_wait_for_readers(sqlite_database: Database, reader: sqlite3.Connection) -> None:
    clock, longest = SystemClock(), 0.0
    for number in range(3):
        began = clock.monotonic()
        write_rows(sqlite_database, str(number))
        sqlite_database.checkpoint(above=0)
        longest = max(longest, clock.monotonic() - began)
    assert longest < _MAX_WAIT_SECONDS
    assert sqlite_database.get_log_size() > 0


def test_write_ahead_log_is_emptied_after_the_reader_ends(sqlite_url: str, reader: sqlite3.Connection) -> None:
    clock = ManualClock(NOW)
    database = Database(sqlite_url, clock=clock)
    write_rows(database, "a")
    database.checkpoint(above=0)
    reader.execute("ROLLBACK")
    database.checkpoint(above=0)
    assert database.get_log_size() > 0, "it pauses after a reader has kept it from the end"
    clock.advance(write_ahead_log._MIN_PAUSE_SECONDS * 2)
    database.checkpoint(above=0)
    assert database.get_log_size() == 0
    database.dispose()


def test_writers_keep_the_log_short_without_a_relay(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITER_CHECKPOINT_BYTES", 500_000)
    sizes = []
    for number in range(12):
        write_rows(sqlite_database, str(number))
        sizes.append(sqlite_database.get_log_size())
    assert max(sizes) < 1_000_000


def test_endless_reader_stops_submissions_but_not_writes(
    sqlite_database: Database, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "MAX_LOG_BYTES", 500_000)
    write_rows(sqlite_database, "a")
    write_rows(sqlite_database, "b")
    write_rows(sqlite_database, "c")
    with pytest.raises(DatabaseBusy, match="keeps open a transaction"):
        sqlite_database.commit(lambda connection: queues.upsert_many(connection, ["new"], NOW))
    write_rows(sqlite_database, "d")
    with sqlite_database.read() as connection:
        assert "new" not in queues.list_names(connection, 1000)


def test_submissions_are_accepted_again_after_the_reader_ends(
    sqlite_url: str, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead_log, "MAX_LOG_BYTES", 100_000)
    clock = ManualClock(NOW)
    database = Database(sqlite_url, clock=clock)
    write_rows(database, "a")
    with pytest.raises(DatabaseBusy):
        database.require_log_space()
    reader.execute("ROLLBACK")
    clock.advance(write_ahead_log._MAX_PAUSE_SECONDS * 2)
    database.commit(lambda connection: queues.upsert_many(connection, ["new"], NOW))
    database.dispose()


def test_failed_checkpoint_does_not_fail_the_preceding_commit(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(module, "WRITER_CHECKPOINT_BYTES", 0)
    monkeypatch.setattr(sqlite3, "connect", refuse)
    write_rows(sqlite_database, "a")
    with sqlite_database.read() as connection:
        assert len(queues.list_names(connection, 1000)) == 300


def test_read_statement_times_out(sqlite_url: str) -> None:
    database = Database(sqlite_url, DatabaseTimeouts(statement=0.2))
    endless = sa.text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n")
    with pytest.raises(sa.exc.OperationalError, match="interrupted"), database.read() as connection:
        connection.execute(endless)
    with database.read() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    database.dispose()


def test_writers_do_not_wait_for_many_readers(sqlite_database: Database) -> None:
    """Readers overlap without a gap, as with a dashboard that is open all day."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with sqlite_database.read() as connection:
                queues.list_names(connection, 1000)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    clock, longest = SystemClock(), 0.0
    for number in range(10):
        began = clock.monotonic()
        write_rows(sqlite_database, str(number))
        sqlite_database.checkpoint(above=0)
        longest = max(longest, clock.monotonic() - began)
    over.set()
    for thread in readers:
        thread.join()
    assert longest < _MAX_WAIT_SECONDS
