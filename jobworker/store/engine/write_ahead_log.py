"""SQLite's write-ahead log: its size, and checkpoints, which copy it into the database file.

A checkpoint never waits for readers: it copies what they allow, and empties the log only when none needs it. Only the
holder of the writers' lock may run one, because SQLite before 3.51.3 can damage a database when a second connection
checkpoints or writes at the same instant. What a reader with an old snapshot keeps in the log stays there until its
transaction ends: our own reads have a deadline, and `require_room` refuses new work before a foreign one fills the
disk.
"""

import contextlib
import sqlite3
from pathlib import Path

import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy

logger = structlog.get_logger(__name__)

#: Any writer runs a checkpoint when the log is larger than this (bytes), so that it is bounded while no relay runs.
#: The relay does so at a few MiB already.
WRITER_CHECKPOINT_BYTES = 64 * 1024 * 1024

#: No new work is accepted while the log is larger than this (bytes).
MAX_LOG_BYTES = 1024 * 1024 * 1024

#: Pause (s) after a checkpoint that a reader has kept from its end, doubled up to the second figure: looking through
#: a long log keeps writers waiting.
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 5.0


class WriteAheadLog:
    """The log of the database at `path`. Every method but `size` wants the caller to hold the writers' lock."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._clock = clock
        self._pause = _MIN_PAUSE_SECONDS
        self._not_before = float("-inf")

    def get_size(self) -> int:
        """Return the length of the file in bytes."""
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, above: int) -> None:
        """Run a checkpoint if the log is longer than `above`, unless a reader has just kept one from its end.

        An error is logged: the transaction before it is committed.
        """
        if self.get_size() <= above or self._clock.monotonic() < self._not_before:
            return
        try:
            left = self._run_checkpoint()
        except sqlite3.Error as error:
            logger.warning("checkpoint_failed", error=str(error), log_bytes=self.get_size())
            left = True
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS) if left else _MIN_PAUSE_SECONDS
        self._not_before = self._clock.monotonic() + self._pause if left else float("-inf")

    def require_room(self) -> None:
        """Raise `DatabaseBusy` if the log is so long that no new work may be accepted."""
        if self.get_size() > MAX_LOG_BYTES:
            raise DatabaseBusy(
                f"SQLite's write-ahead log has {self.get_size() // 1024**2} MiB, because a program keeps open a "
                "transaction that reads the database: no work is accepted before it ends; nothing was changed"
            )

    def _run_checkpoint(self) -> bool:
        """Copy what readers allow; return whether something is left."""
        # A connection of its own, whose time-out is none; it locks the file through the same library as the others.
        with contextlib.closing(sqlite3.connect(self._path, timeout=0.0, isolation_level=None)) as connection:
            blocked, logged, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if blocked or logged > copied:
                return True
            blocked, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(blocked)
