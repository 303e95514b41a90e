"""Waits for a lock that another program holds: few callers wait, and none of them long."""

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from jobworker.domain.errors import DatabaseBusy
from jobworker.store import queues
from jobworker.store.database import lock_waits
from jobworker.store.database.database import Database, DatabaseTimeouts
from jobworker.store.tables import core
from tests.conftest import NOW
from tests.polling import wait_until

#: Number of concurrent callers: more than may wait for a lock at a time.
_CALLER_COUNT = 16

#: Timeouts of PostgreSQL's locks; the timeout of SQLite's own lock is 2 s as well.
_LOCK_LIMITS = DatabaseTimeouts(lock=2.0)

#: Maximum wait of callers before the lock is known to be held for long (s).
_MAX_FIRST_WAIT_SECONDS = 3.5

Work = Callable[[Database], object]


@contextlib.contextmanager
def hold_lock(database: Database, table: str = "executions") -> Iterator[None]:
    """Hold the lock of SQLite's writers, or the lock of a PostgreSQL table, by a foreign connection."""
    if database.is_sqlite:
        with contextlib.closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as raw:
            raw.execute("BEGIN IMMEDIATE")
            yield
        return
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg.connect(url)) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


def write_nothing(connection: sa.Connection) -> None:
    """Update no row, but acquire the locks of an update."""
    connection.execute(sa.delete(core.executions).where(core.executions.c.id == "none"))


def submit_job(database: Database) -> None:
    database.commit(write_nothing, only_adds=True)


def write_transaction(database: Database) -> None:
    with database.write() as connection:
        write_nothing(connection)


def read_transaction(database: Database) -> None:
    with database.read() as connection:
        connection.execute(sa.select(core.executions.c.id).limit(1)).all()


def measure_concurrent_waits(database: Database, work: Work) -> list[float]:
    """Let many callers try; check that each is refused, and return their waiting times (s) in ascending order."""
    waited: list[float] = []
    refused: list[str] = []

    def run() -> None:
        began = time.monotonic()
        try:
            work(database)
        except DatabaseBusy as error:
            refused.append(error.detail)
        waited.append(time.monotonic() - began)

    threads = [threading.Thread(target=run) for _ in range(_CALLER_COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == _CALLER_COUNT
    assert all("nothing was changed: try again" in detail for detail in refused), refused
    return sorted(waited)


@pytest.mark.parametrize("work", [submit_job, write_transaction])
def test_writers_wait_once_for_lock_of_another_program(database_url: str, work: Work) -> None:
    database = Database(database_url, _LOCK_LIMITS)
    work(database)
    with hold_lock(database):
        first = measure_concurrent_waits(database, work)
        assert first[-1] < _MAX_FIRST_WAIT_SECONDS, first
        later = measure_concurrent_waits(database, work)
        # On PostgreSQL one of the callers waits with the full timeout.
        assert later[-2] < 1.0, later
        assert later[-1] < _MAX_FIRST_WAIT_SECONDS, later
    began = time.monotonic()
    work(database)
    assert time.monotonic() - began < 1.0
    database.dispose()


def test_readers_of_postgresql_wait_once_for_a_lock(postgres_url: str) -> None:
    database = Database(postgres_url, _LOCK_LIMITS)
    read_transaction(database)
    with hold_lock(database):
        assert measure_concurrent_waits(database, read_transaction)[-1] < _MAX_FIRST_WAIT_SECONDS
        assert measure_concurrent_waits(database, read_transaction)[-2] < 1.0
        # Statements on other tables succeed.
        with database.read() as connection:
            assert queues.list_names(connection, 10) == []
    read_transaction(database)
    database.dispose()


def test_full_lock_timeout_is_restored_after_a_held_lock(postgres_url: str) -> None:
    database = Database(postgres_url, DatabaseTimeouts(lock=0.2))
    with hold_lock(database), pytest.raises(DatabaseBusy):
        submit_job(database)
    assert database._limiter.is_brief
    wait_until(lambda: not database._limiter.is_brief, what="the full patience")
    database.dispose()


def test_errors_other_than_timeouts_do_not_shorten_waits(postgres_url: str) -> None:
    database = Database(postgres_url, DatabaseTimeouts(statement=0.2))
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"), database.read() as connection:
        connection.execute(sa.text("SELECT pg_sleep(30)"))
    with database.write() as connection:
        queues.upsert_many(connection, ["a"], NOW)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.insert(core.queues), [{"name": "a", "created_at": NOW}])
    for state in ("40001", "40P01"):
        raised = f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"
        with pytest.raises(sa.exc.OperationalError), database.write() as connection:
            connection.exec_driver_sql(raised)
    assert not database._limiter.is_brief
    assert not database._limiter.is_unavailable
    database.dispose()


def test_callers_beyond_the_connection_pool_get_database_busy(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_waits, "_CONNECTION_TIMEOUT_SECONDS", 0.1)
    with contextlib.ExitStack() as readers:
        for _ in range(60 if database.is_sqlite else 30):
            readers.enter_context(database.read())
        with pytest.raises(DatabaseBusy, match="too many concurrent requests"), database.read():
            pass
        # One caller at a time checks for a free connection.
        began = time.monotonic()
        with pytest.raises(DatabaseBusy, match="nothing was changed: try again"), database.read():
            pass
        assert time.monotonic() - began < 1.0
    read_transaction(database)
    read_transaction(database)
    assert not database._limiter.is_unavailable


def test_stopped_server_process_is_given_up(postgres_url: str) -> None:
    database = Database(postgres_url, DatabaseTimeouts(statement=0.2))
    with database.read() as connection:
        backend = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    os.kill(backend, signal.SIGSTOP)
    try:
        began = time.monotonic()
        # The broken connection is detected before it is handed over, so another one is opened.
        read_transaction(database)
        assert time.monotonic() - began < 10.0
        with database.read() as connection:
            backend_in_use = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            os.kill(backend_in_use, signal.SIGSTOP)
            try:
                with pytest.raises(sa.exc.OperationalError, match=r"has not responded for 3\.2 s"):
                    connection.execute(sa.text("SELECT 1"))
            finally:
                os.kill(backend_in_use, signal.SIGCONT)
    finally:
        os.kill(backend, signal.SIGCONT)
    read_transaction(database)
    database.dispose()


def test_response_timeout_follows_session_settings(postgres_url: str) -> None:
    limits = []
    for options in ("?options=-c%20statement_timeout%3D20000", "?options=-c%20statement_timeout%3D0", ""):
        database = Database(postgres_url + options)
        with database.read() as connection:
            limits.append(connection.connection.dbapi_connection._response_timeout_seconds)  # type: ignore[union-attr]
        database.dispose()
    assert limits == [23.0, None, 8.0]
