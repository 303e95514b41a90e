"""Online backup of an SQLite database, which does not block writers.

The copy is made from one snapshot: with a snapshot for each step, SQLite would restart the copy after every commit.
Data written in the meantime stay in the write-ahead log until the copy is complete.
"""

import contextlib
import os
import shlex
import sqlite3
import tempfile
from pathlib import Path

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError, InvalidInput
from jobworker.store.database.write_ahead_log import MAX_LOG_BYTES, WriteAheadLog

#: Number of pages (of 4 KiB) copied between two checks of the length of the write-ahead log.
_PAGES_PER_STEP = 2_000

#: Size of the write-ahead log (bytes) above which a backup is aborted: far below the size at which new work is refused.
_MAX_LOG_BYTES = MAX_LOG_BYTES // 2


def create_backup(url: str, target: Path, clock: Clock) -> int:
    """Copy the SQLite database at `url` to `target`; return the size of the copy in bytes.

    The copy appears under its name once it is complete, checked and synced to the disk. Raises `InvalidInput` if
    `target` exists or the database is not SQLite, `ConfigurationError` if the copy cannot be made or is damaged.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise InvalidInput(_describe_pg_dump(parsed, target))
    _refuse_existing(target)
    source = Path(str(parsed.database))
    try:
        with tempfile.TemporaryDirectory(prefix=".jobworker-backup-", dir=target.parent) as folder:
            copy = Path(folder) / target.name
            copy.touch(mode=0o600)
            _copy(source, copy, WriteAheadLog(source, clock))
            _check_copy(copy)
            _fsync(copy)
            _refuse_existing(target)
            copy.rename(target)
            _fsync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"no backup was made: {source} cannot be copied to {target}: {error}") from error
    return target.stat().st_size


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise InvalidInput(f"{target} exists and is left as it is: name a file that does not exist yet")


def _copy(source: Path, copy: Path, log: WriteAheadLog) -> None:
    def check_log_size(_status: int, _remaining: int, _all: int) -> None:
        if log.get_size() > _MAX_LOG_BYTES:
            raise ConfigurationError(
                f"no backup was made: the write-ahead log grew to {log.get_size() // 1024**2} MiB meanwhile; "
                "try again when less is written, or end the program that keeps a read transaction open"
            )

    with _open(source) as reader, _open(copy) as writer:
        # No other process opens the copy, and the whole file is synced to the disk at the end.
        writer.execute("PRAGMA journal_mode=OFF")
        writer.execute("PRAGMA synchronous=OFF")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # Takes the snapshot.
        reader.backup(writer, pages=_PAGES_PER_STEP, progress=check_log_size)


def _check_copy(copy: Path) -> None:
    """Raise `ConfigurationError` if the copy is damaged; disable its write-ahead log to make it a single file."""
    with _open(copy) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
    if problems != ["ok"]:
        raise ConfigurationError(
            f"no backup was made: the copy is damaged, so the database probably is: {'; '.join(problems)}"
        )


def _open(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _describe_pg_dump(url: sa.URL, target: Path) -> str:
    query = url.difference_update_query(["password"]).query
    plain = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    command = shlex.join(["pg_dump", "--format=custom", f"--file={target}", plain.render_as_string()])
    return (
        f"jobworker backup copies SQLite databases; for PostgreSQL use {command} "
        "(it asks for the password, or takes it from PGPASSWORD or ~/.pgpass)"
    )
