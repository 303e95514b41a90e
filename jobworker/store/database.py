"""Connections: one engine that reads, one that writes, and who may write when.

SQLite: WAL, `synchronous=FULL`, foreign keys; a writer takes an advisory file lock and then
`BEGIN IMMEDIATE`, so that writers queue up instead of failing with "database is locked"; nobody
checkpoints but the relay (`checkpoint`), because SQLite before 3.51.3 can corrupt a WAL with several
checkpointers. PostgreSQL needs none of that.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson
import sqlalchemy as sa
from sqlalchemy import event

from jobworker.domain.errors import Misconfigured
from jobworker.store.columns import read_json
from jobworker.store.group_commit import Answer, GroupCommit
from jobworker.store.read_limit import ReadLimit

#: Longest wait for a lock (ms): far above any transaction of ours, below a client's patience.
_BUSY_TIMEOUT_MS = 10_000

#: What SQLAlchemy raises when the database cannot be reached, is full, or does not answer in time.
UNAVAILABLE = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


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


def _to_json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


class Database:
    """One SQL database, by its SQLAlchemy URL. Safe to share between threads, never across a fork."""

    def __init__(self, url: str, read_limit: ReadLimit | None = None) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader, self._writer, self._lock = self._open_sqlite()
            if read_limit is not None:
                read_limit.attach(self._reader)
        else:
            self._reader = self._writer = sa.create_engine(
                self.url,
                json_serializer=_to_json,
                json_deserializer=read_json,
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
            )
            self._lock = contextlib.nullcontext
        self._group = GroupCommit(self.write)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state and changes nothing. Keep it short."""
        with self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        with self._lock(), self._writer.begin() as connection:
            yield connection

    def commit(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        """Do `work` in a transaction that other threads' work may share; the answer, once it is committed.

        For short writes of many threads at once. A failure undoes that work only.
        """
        if self.is_sqlite:
            return self._group.run(work)
        with self.write() as connection:
            return work(connection)

    def checkpoint(self) -> None:
        """Bring SQLite's write-ahead log back into the database file. Only the relay does this."""
        if self.is_sqlite:
            with self._lock(), self._writer.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None
                connection.rollback()
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._reader.dispose()
        self._writer.dispose()

    def _open_sqlite(self) -> tuple[sa.Engine, sa.Engine, Callable[[], contextlib.AbstractContextManager[None]]]:
        path = self.url.database
        if not path or path == ":memory:":
            raise Misconfigured("an in-memory SQLite database cannot be shared by several processes; name a file")
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Parameters and results are nobody else's business; SQLite gives its other files the same mode.
            Path(path).touch(mode=0o600)
        except OSError as error:
            raise Misconfigured(f"the database {path} cannot be made: {error}") from error
        options: dict[str, Any] = {
            "connect_args": {"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
            "pool_size": 10,
            "max_overflow": 50,
        }
        reader = sa.create_engine(self.url, **options)
        writer = sa.create_engine(self.url, **options)
        for engine, begin in ((reader, "BEGIN"), (writer, "BEGIN IMMEDIATE")):
            event.listen(engine, "connect", _set_pragmas)
            event.listen(engine, "begin", _beginner(begin))
        event.listen(reader, "connect", _forbid_writes)
        return reader, writer, _FileLock(Path(f"{path}.lock"))


def _set_pragmas(connection: _DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's events say BEGIN, not the driver.
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
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


def _beginner(statement: str) -> Callable[[sa.Connection], None]:
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


class _FileLock:
    """An advisory lock that waits its turn; SQLite's own waiting polls and can starve a writer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
