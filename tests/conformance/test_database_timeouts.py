"""Timeouts of PostgreSQL statements and locks, and of the lock of SQLite's writers."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.errors import DatabaseBusy
from jobworker.store.database.database import MIGRATION_TIMEOUTS, Database, DatabaseTimeouts
from jobworker.store.database.file_lock import FileLock
from tests.polling import wait_until


def _get_setting(database: Database, name: str) -> str:
    with database.read() as connection:
        return str(connection.scalar(sa.text(f"SHOW {name}")))


def _dispose_databases(*databases: Database) -> None:
    for database in databases:
        database.dispose()


def test_postgresql_statement_times_out(postgres_url: str) -> None:
    database = Database(postgres_url, DatabaseTimeouts(statement=0.2))
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"), database.read() as connection:
        connection.execute(sa.text("SELECT pg_sleep(30)"))
    _dispose_databases(database)


def test_postgresql_lock_wait_times_out(postgres_url: str) -> None:
    database = Database(postgres_url, DatabaseTimeouts(lock=0.2))
    lock = sa.text("LOCK TABLE queues IN ACCESS EXCLUSIVE MODE")
    with database._writer.begin() as holder:
        holder.execute(lock)
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"), database._writer.begin() as connection:
            connection.execute(lock)
    _dispose_databases(database)


def test_idle_transaction_loses_its_locks(postgres_url: str) -> None:
    hanging, database = Database(postgres_url, DatabaseTimeouts(idle=0.2)), Database(postgres_url)
    lock = sa.text("LOCK TABLE queues IN ACCESS EXCLUSIVE MODE")
    with contextlib.suppress(sa.exc.DBAPIError), hanging.write() as holder:
        holder.execute(lock)
        with database._writer.begin() as connection:
            connection.execute(lock)
    _dispose_databases(hanging, database)


def test_url_options_override_default_timeouts(postgres_url: str) -> None:
    url_with_options = f"{postgres_url}?connect_timeout=7&options=-c%20statement_timeout%3D12345"
    database, migrating = Database(url_with_options), Database(postgres_url, MIGRATION_TIMEOUTS)
    assert _get_setting(database, "statement_timeout") == "12345ms"
    assert _get_setting(database, "lock_timeout") == "4s"
    assert _get_setting(database, "idle_in_transaction_session_timeout") == "10s"
    assert _get_setting(migrating, "statement_timeout") == "0"
    _dispose_databases(database, migrating)


def test_connection_to_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database(f"postgresql+psycopg://u@127.0.0.1:{port}/d?connect_timeout=2")
        with pytest.raises(sa.exc.OperationalError, match="timeout"), database.read():
            pass
    _dispose_databases(database)


def test_file_lock_wait_is_passed_to_next_caller(tmp_path: Path) -> None:
    clock = SystemClock()
    holder, lock = (FileLock(tmp_path / "lock", clock, timeout_seconds=0.2) for _ in range(2))
    with holder.hold(clock.monotonic()):
        for _ in range(3):
            with pytest.raises(DatabaseBusy, match="try again"), lock.hold(clock.monotonic() + 0.05):
                pass
        assert sum(thread.name == "file-lock" for thread in threading.enumerate()) == 1
        assert lock.timeout_seconds == 0.2
    # The waiting thread acquires the lock, finds that its caller has given up, and releases the lock.
    wait_until(lambda: not _is_locked_for_others(tmp_path / "lock"), what="the lock to be given back")
    with lock.hold(clock.monotonic() + 30.0):
        assert _is_locked_for_others(tmp_path / "lock")
    assert not _is_locked_for_others(tmp_path / "lock")
    del lock
    gc.collect()
    wait_until(lambda: all(thread.name != "file-lock" for thread in threading.enumerate()), what="the thread to end")


def test_file_lock_goes_to_the_waiting_caller(tmp_path: Path) -> None:
    clock = SystemClock()
    holder, lock = (FileLock(tmp_path / "lock", clock, timeout_seconds=30.0) for _ in range(2))
    order: list[str] = []

    def wait() -> None:
        with lock.hold(clock.monotonic() + 30.0):
            order.append("waiter")

    waiter = threading.Thread(target=wait)
    with holder.hold(clock.monotonic()):
        waiter.start()
        wait_until(lambda: any(thread.name == "file-lock" for thread in threading.enumerate()), what="the waiter")
        order.append("holder")
    waiter.join(30)
    assert order == ["holder", "waiter"]


def test_file_lock_leaves_no_open_descriptor(tmp_path: Path) -> None:
    clock = SystemClock()
    lock = FileLock(tmp_path / "lock", clock, timeout_seconds=1.0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with lock.hold(clock.monotonic() + 1.0):
            pass
    assert len(os.listdir("/proc/self/fd")) <= before


def _is_locked_for_others(path: Path) -> bool:
    program = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, timeout=30, check=False)
    return done.returncode != 0
