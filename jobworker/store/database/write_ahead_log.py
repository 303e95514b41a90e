"""SQLite's write-ahead log: its size, and checkpoints, which copy it into the database file.

A checkpoint never waits for readers: it copies the pages that they permit, and truncates the log only when no reader
needs it. Only the holder of the writers' lock may run a checkpoint, because SQLite before 3.51.3 can damage a database
when a second connection checkpoints or writes at the same instant. Pages needed by a reader with an old snapshot stay
in the log until its transaction ends: reads of JobWorker have a deadline, and `require_log_space` refuses new work
before a read of another program fills the disk.
"""

import contextlib
import sqlite3
from pathlib import Path

import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy

logger = structlog.get_logger(__name__)

#: Size of the log (bytes) above which any writer runs a checkpoint, so that the log is bounded while no relay runs.
#: The relay runs checkpoints at a few MiB already.
WRITER_CHECKPOINT_BYTES = 64 * 1024 * 1024

#: Size of the log (bytes) above which no new work is accepted.
MAX_LOG_BYTES = 1024 * 1024 * 1024

#: Minimum and maximum pause (s) after a checkpoint that a reader prevented from completing, doubled each time, because
#: scanning a long log blocks writers.
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 5.0


class WriteAheadLog:
    """Write-ahead log of the database at `path`. All methods except `get_size` require the writers' lock."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._clock = clock
        self._pause = _MIN_PAUSE_SECONDS
        self._not_before = float("-inf")

    def get_size(self) -> int:
        """Return the length of the log file in bytes."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, above: int) -> None:
        """Run a checkpoint if the log is longer than `above`, unless a reader has just prevented one from completing.

        Errors are only logged, because the preceding transaction is already committed.
        """
        if self.get_size() <= above or self._clock.monotonic() < self._not_before:
            return
        try:
            has_remainder = self._run_checkpoint()
        except sqlite3.Error as error:
            logger.warning("checkpoint_failed", error=str(error), log_bytes=self.get_size())
            has_remainder = True
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS) if has_remainder else _MIN_PAUSE_SECONDS
        self._not_before = self._clock.monotonic() + self._pause if has_remainder else float("-inf")

    def require_log_space(self) -> None:
        """Raise `DatabaseBusy` if the log is too long to accept new work."""
        if self.get_size() > MAX_LOG_BYTES:
            raise DatabaseBusy(
                f"SQLite's write-ahead log has {self.get_size() // 1024**2} MiB, because a program keeps open a "
                "transaction that reads the database: no work is accepted before it ends; nothing was changed"
            )

    def _run_checkpoint(self) -> bool:
        """Copy the pages that readers permit; return whether pages are left."""
        # A separate connection without a timeout, opened through the SQLite library that the other connections use.
        with contextlib.closing(sqlite3.connect(self._path, timeout=0.0, isolation_level=None)) as connection:
            blocked, logged, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if blocked or logged > copied:
                return True
            blocked, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(blocked)
