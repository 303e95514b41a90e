"""Database connections: engines for reading and writing, the order of writers, and timeouts.

SQLite: WAL, `synchronous=FULL`, foreign keys; a writer takes an advisory file lock and then
`BEGIN IMMEDIATE`, so that writers queue up instead of failing with "database is locked"; checkpoints
run under that file lock (`store/database/write_ahead_log.py`). PostgreSQL: transactions of `write` take one advisory
lock first, so that a transaction that reads, decides and writes existing rows does so alone, as on SQLite;
submissions, which only add rows, do not take the lock.
"""

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
import sqlalchemy as sa
from sqlalchemy import event

from jobworker.clock import Clock, SystemClock
from jobworker.domain.errors import ConfigurationError, DatabaseBusy
from jobworker.store.database import postgresql
from jobworker.store.database.columns import read_json
from jobworker.store.database.file_lock import FileLock
from jobworker.store.database.group_commit import GroupCommit, Result
from jobworker.store.database.lock_waits import BRIEF_TIMEOUT_SECONDS, ConnectionLimiter, build_busy_error
from jobworker.store.database.read_limit import ReadLimit
from jobworker.store.database.write_ahead_log import WRITER_CHECKPOINT_BYTES, WriteAheadLog

#: Advisory lock of PostgreSQL's writers, held to the end of the transaction. Its number is "jobwork" in ASCII.
_LOCK_WRITER = sa.text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'jobwork', 'big')})")


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """Timeouts of a database (s); 0 means no limit, except for `lock`."""

    #: Timeout of the writers' lock, and of row locks on PostgreSQL.
    lock: float = 4.0
    #: Timeout of a statement on PostgreSQL, and of a read on SQLite, which prevents truncation of the write-ahead log.
    statement: float = 5.0
    #: Timeout of the next statement of a transaction, after which PostgreSQL ends the session of a hanging client.
    idle: float = 10.0


#: Timeouts of processes that do not serve HTTP clients.
BACKGROUND_TIMEOUTS = DatabaseTimeouts(statement=60.0)

#: Timeouts of schema changes: another upgrade may be running, and a statement may rewrite a table.
MIGRATION_TIMEOUTS = DatabaseTimeouts(lock=600.0, statement=0.0, idle=0.0)

#: Timeout of SQLite's own lock (s): only programs that do not take the file lock make SQLite wait.
_BUSY_TIMEOUT_SECONDS = 2.0

#: Number of instructions of SQLite's virtual machine between two checks of a read's deadline: about a millisecond.
_PROGRESS_INSTRUCTIONS = 20_000

#: Number of connections that stay open, and of additional ones for concurrent callers.
_SQLITE_POOL = {"pool_size": 10, "max_overflow": 50}

#: Errors raised when the database is unreachable, full, locked, or does not respond in time.
UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, DatabaseBusy)


def describe_error(error: Exception) -> str:
    """Return the text of an error without the statement and its parameters, which must not be logged."""
    cause = error.orig if isinstance(error, sa.exc.StatementError) and error.orig else error
    return f"{type(cause).__name__}: {cause}"


def is_too_slow(error: Exception) -> bool:
    """Return whether a statement was interrupted because it took too long."""
    original = getattr(error, "orig", None)
    return str(original) == "interrupted" or getattr(original, "sqlstate", None) == _QUERY_CANCELED


#: PostgreSQL's code for `statement_timeout`.
_QUERY_CANCELED = "57014"


class _Cursor(Protocol):
    def execute(self, sql: str) -> Any: ...
    def close(self) -> None: ...


class _DBAPIConnection(Protocol):
    isolation_level: str | None

    def cursor(self) -> _Cursor: ...
    def set_progress_handler(self, handler: Callable[[], bool], n: int) -> None: ...


#: Key of the read deadline in a connection's `info`.
_READ_DEADLINE_KEY = "read_before"


def _to_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


class Database:
    """SQL database, given by its SQLAlchemy URL. Safe to share between threads, but not across a fork."""

    def __init__(
        self,
        url: str,
        timeouts: DatabaseTimeouts = DatabaseTimeouts(),
        clock: Clock | None = None,
        read_limit: ReadLimit | None = None,
    ) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._timeouts = timeouts
        self._clock = clock or SystemClock()
        pool = _SQLITE_POOL if self.is_sqlite else postgresql.POOL_OPTIONS
        self._limiter = ConnectionLimiter(self._clock, sum(pool.values()), timeouts.lock)
        if self.is_sqlite:
            path = self._create_sqlite_file()
            self._reader, self._writer = self._open_sqlite(read_limit)
            self._lock = FileLock(Path(f"{path}.lock"), self._clock, timeouts.lock)
            self._log = WriteAheadLog(path, self._clock)
            self._group = GroupCommit(self._write_sqlite, self._clock, lambda: self._lock.timeout_seconds)
        else:
            limits = {
                "statement_timeout": timeouts.statement,
                "lock_timeout": timeouts.lock,
                "idle_in_transaction_session_timeout": timeouts.idle,
            }
            self._reader = self._writer = postgresql.create_engine(
                self.url, limits, json_serializer=_to_json, json_deserializer=read_json
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a read-only connection with one consistent snapshot. Keep the block short."""
        with self._limiter.admit() as caller, self._reader.connect() as connection:
            if self.is_sqlite:
                connection.info[_READ_DEADLINE_KEY] = self._clock.monotonic() + self._timeouts.statement
            caller.shorten_lock_timeout(connection)
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that excludes other `write` transactions; commit it, or roll it back on an exception.

        Raises `DatabaseBusy` if the writers' lock is not granted in time.
        """
        if not self.is_sqlite:
            with self._begin_postgresql(exclusive=True) as connection:
                yield connection
            return
        with self._write_sqlite(self._clock.monotonic() + self._lock.timeout_seconds) as connection:
            yield connection

    def commit(self, work: Callable[[sa.Connection], Result], only_adds: bool = False) -> Result:
        """Run `work` in a transaction that other threads may share; return its result.

        Intended for short writes of many concurrent threads. A failure of `work` undoes only that work. `work` must
        have no effects outside the database, because it may have run even if an error is raised. `only_adds`: `work`
        changes no existing rows, so on PostgreSQL it does not wait for the transactions of `write`.
        """
        if not self.is_sqlite:
            with self._begin_postgresql(exclusive=not only_adds) as connection:
                return work(connection)
        self.require_log_space()
        return self._group.run(work)

    def require_log_space(self) -> None:
        """Raise `DatabaseBusy` if SQLite's write-ahead log is too long to accept new work."""
        if not self.is_sqlite:
            return
        try:
            self._log.require_log_space()
        except DatabaseBusy:
            self.checkpoint(0)  # The blocking reader may have ended, and no writer runs a checkpoint.
            self._log.require_log_space()

    def checkpoint(self, above: int) -> None:
        """Copy SQLite's write-ahead log into the database file if it is longer than `above` bytes."""
        if self.is_sqlite and self._log.get_size() > above:
            with self._lock.hold(self._clock.monotonic() + self._lock.timeout_seconds):
                self._log.checkpoint(above)

    def get_log_size(self) -> int:
        """Return the length of SQLite's write-ahead log in bytes; 0 on PostgreSQL."""
        return self._log.get_size() if self.is_sqlite else 0

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._reader.dispose()
        self._writer.dispose()

    @contextlib.contextmanager
    def _begin_postgresql(self, exclusive: bool) -> Iterator[sa.Connection]:
        with self._limiter.admit() as caller, _open_transaction(self._writer) as connection:
            caller.shorten_lock_timeout(connection)
            if exclusive:
                connection.execute(_LOCK_WRITER)
                caller.shorten_lock_timeout(connection)
            yield connection

    @contextlib.contextmanager
    def _write_sqlite(self, deadline: float) -> Iterator[sa.Connection]:
        with self._lock.hold(deadline):
            with _open_transaction(self._writer) as connection:
                yield connection
            self._log.checkpoint(WRITER_CHECKPOINT_BYTES)

    def _create_sqlite_file(self) -> Path:
        path = self.url.database
        if not path or path == ":memory:":
            raise ConfigurationError("an in-memory SQLite database cannot be shared by several processes; name a file")
        try:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Parameters and results are private; SQLite gives its other files the mode of this file.
            Path(path).touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(f"the database {path} cannot be created: {error}") from error
        return Path(path)

    def _open_sqlite(self, read_limit: ReadLimit | None) -> tuple[sa.Engine, sa.Engine]:
        options: dict[str, Any] = {
            "connect_args": {"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            "hide_parameters": True,
            **_SQLITE_POOL,
        }
        reader = sa.create_engine(self.url, **options)
        writer = sa.create_engine(self.url, **options)
        for engine, begin in ((reader, _begin), (writer, self._begin_immediate)):
            event.listen(engine, "connect", _set_pragmas)
            event.listen(engine, "begin", begin)
        event.listen(reader, "connect", _forbid_writes)
        if self._timeouts.statement:
            event.listen(reader, "connect", functools.partial(self._limit_reads, read_limit))
        if read_limit:
            read_limit.attach(reader)
        return reader, writer

    def _begin_immediate(self, connection: sa.Connection) -> None:
        """Wait for SQLite's own lock, which is held only by programs that do not take the file lock."""
        brief = self._lock.has_timed_out
        if brief:
            _set_busy_timeout(connection, BRIEF_TIMEOUT_SECONDS)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                raise
            self._lock.has_timed_out = True
            raise build_busy_error(BRIEF_TIMEOUT_SECONDS if brief else _BUSY_TIMEOUT_SECONDS) from error
        finally:
            if brief:
                _set_busy_timeout(connection, _BUSY_TIMEOUT_SECONDS)
        if brief:
            self._lock.has_timed_out = False

    def _limit_reads(
        self, read_limit: ReadLimit | None, connection: _DBAPIConnection, record: sa.pool.ConnectionPoolEntry
    ) -> None:
        """Interrupt statements of this connection after the deadline set by `read`, or at the read limit."""
        is_over_limit = read_limit.watch(record) if read_limit else None

        def is_over() -> bool:
            late = bool(self._clock.monotonic() > record.info.get(_READ_DEADLINE_KEY, float("inf")))
            return late or (is_over_limit is not None and is_over_limit())

        connection.set_progress_handler(is_over, _PROGRESS_INSTRUCTIONS)


@contextlib.contextmanager
def _open_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction; raise if it was not committed, also if the database has rolled it back by itself.

    The drivers' `commit` does not raise in that case, and the original error may have been caught.
    """
    with engine.begin() as connection:
        yield connection
        if _is_rolled_back(connection):
            raise sa.exc.OperationalError("COMMIT", {}, Exception("the database has rolled the transaction back"))


def _is_rolled_back(connection: sa.Connection) -> bool:
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        return not raw.in_transaction
    return bool(raw.info.transaction_status.name == "INERROR")


def _set_pragmas(connection: _DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's events send BEGIN, not the driver.
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={int(_BUSY_TIMEOUT_SECONDS * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "wal_autocheckpoint=0",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _forbid_writes(connection: _DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _set_busy_timeout(connection: sa.Connection, seconds: float) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout={int(seconds * 1000)}")
