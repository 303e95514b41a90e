"""Connections: one engine that reads, one that writes, who may write when, and how long each may wait.

SQLite: WAL, `synchronous=FULL`, foreign keys; a writer takes an advisory file lock and then
`BEGIN IMMEDIATE`, so that writers queue up instead of failing with "database is locked"; checkpoints
run under the same lock (`store/engine/write_ahead_log.py`). PostgreSQL: transactions of `write` take one advisory
lock first, so that whatever reads, decides and writes rows that exist does so alone, as on SQLite;
submissions, which only add rows, do not.
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
from jobworker.store.engine import postgresql
from jobworker.store.engine.columns import read_json
from jobworker.store.engine.file_lock import FileLock
from jobworker.store.engine.group_commit import GroupCommit, Result
from jobworker.store.engine.lock_waits import BRIEF_TIMEOUT_SECONDS, ConnectionLimiter, build_busy_error
from jobworker.store.engine.read_limit import ReadLimit
from jobworker.store.engine.write_ahead_log import WRITER_CHECKPOINT_BYTES, WriteAheadLog

#: PostgreSQL: held to the end of the transaction. The number is ours alone among advisory locks ("jobwork" in ASCII).
_LOCK_WRITER = sa.text(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'jobwork', 'big')})")


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """How long (s) the database may keep a caller waiting; 0 stands for no limit but the lock's."""

    #: For the lock of the writers, and for a row's on PostgreSQL.
    lock: float = 4.0
    #: For a statement on PostgreSQL, and for a read on SQLite, which keeps the write-ahead log from being emptied.
    statement: float = 5.0
    #: For the next statement of a transaction, on PostgreSQL, which ends the session of a client that hangs.
    idle: float = 10.0


#: For processes that no HTTP client waits for.
BACKGROUND_TIMEOUTS = DatabaseTimeouts(statement=60.0)

#: For changes of the schema: another upgrade may be under way, and a statement may rewrite a table.
MIGRATION_TIMEOUTS = DatabaseTimeouts(lock=600.0, statement=0.0, idle=0.0)

#: How long (s) SQLite itself waits for a lock: only programs that do not take ours make it wait.
_BUSY_TIMEOUT_SECONDS = 2.0

#: Instructions of SQLite's virtual machine between two looks at the clock during a read: about a millisecond.
_PROGRESS_INSTRUCTIONS = 20_000

#: Connections that are kept, and those that are made beside them when many callers come at once.
_SQLITE_POOL = {"pool_size": 10, "max_overflow": 50}

#: What is raised when the database cannot be reached, is full, locked, or does not answer in time.
UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, DatabaseBusy)


def describe_error(error: Exception) -> str:
    """What went wrong, without the statement and its parameters: those are nobody's business in a log."""
    cause = error.orig if isinstance(error, sa.exc.StatementError) and error.orig else error
    return f"{type(cause).__name__}: {cause}"


def is_too_slow(error: Exception) -> bool:
    """Whether a statement was interrupted because it took too long."""
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


#: Key in a connection's `info`.
_READ_DEADLINE_KEY = "read_before"


def _to_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


class Database:
    """One SQL database, by its SQLAlchemy URL. Safe to share between threads, never across a fork."""

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
        """A connection that sees one consistent state and changes nothing. Keep it short."""
        with self._limiter.admit() as caller, self._reader.connect() as connection:
            if self.is_sqlite:
                connection.info[_READ_DEADLINE_KEY] = self._clock.monotonic() + self._timeouts.statement
            caller.shorten_lock_timeout(connection)
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction, the only one of `write` at a time; commit it, or roll it back when the block raises.

        Raises `DatabaseBusy` when it is not this writer's turn in time.
        """
        if not self.is_sqlite:
            with self._begin_postgresql(exclusive=True) as connection:
                yield connection
            return
        with self._write_sqlite(self._clock.monotonic() + self._lock.timeout_seconds) as connection:
            yield connection

    def commit(self, work: Callable[[sa.Connection], Result], only_adds: bool = False) -> Result:
        """Accept new work: run `work` in a transaction that other threads may share; return what it returned.

        For short writes of many threads at once. A failure of `work` undoes that work only. `work` must have no
        effects but those in the database: it may have run when this raises. `only_adds`: it changes no row that others
        may change, so on PostgreSQL it need not wait for the transactions of `write`.
        """
        if not self.is_sqlite:
            with self._begin_postgresql(exclusive=not only_adds) as connection:
                return work(connection)
        self.require_room()
        return self._group.run(work)

    def require_room(self) -> None:
        """Raise `DatabaseBusy` if SQLite's write-ahead log is so long that no new work is accepted."""
        if not self.is_sqlite:
            return
        try:
            self._log.require_room()
        except DatabaseBusy:
            self.checkpoint(0)  # The reader may have ended, and nothing else be writing.
            self._log.require_room()

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
            # Parameters and results are nobody else's business; SQLite gives its other files the same mode.
            Path(path).touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(f"the database {path} cannot be made: {error}") from error
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
        """Wait for SQLite's own lock, which only programs hold that do not take ours."""
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
        """Interrupt a statement of this connection after the deadline that `read` has set, or by the limit."""
        is_over_limit = read_limit.watch(record) if read_limit else None

        def is_over() -> bool:
            late = bool(self._clock.monotonic() > record.info.get(_READ_DEADLINE_KEY, float("inf")))
            return late or (is_over_limit is not None and is_over_limit())

        connection.set_progress_handler(is_over, _PROGRESS_INSTRUCTIONS)


@contextlib.contextmanager
def _open_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is committed, or raises: also if the database has rolled it back by itself meanwhile.

    The drivers' `commit` says nothing then, and the error at its origin may have been caught.
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
    connection.isolation_level = None  # SQLAlchemy's events say BEGIN, not the driver.
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
