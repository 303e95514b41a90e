"""Limit of processor time for reads of SQLite, for lists whose filters no index serves.

PostgreSQL has `statement_timeout` for this.
"""

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import event

#: Processor time (s) after which a read counts as slow, and maximum number of concurrent slow reads in one process.
_SLOW_SECONDS = 0.25
_MAX_SLOW_READS = 2

#: Key of the read timer in a connection's `info`.
_INFO_KEY = "read_limit"


class ReadLimit:
    """Limit of processor time (s) for the reads of one transaction."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = threading.Semaphore(_MAX_SLOW_READS)

    def attach(self, engine: sa.Engine) -> None:
        """Start and stop the timer with each transaction of this engine, whose connections must be watched."""
        event.listen(engine, "begin", lambda connection: connection.connection.info[_INFO_KEY].start())
        event.listen(engine, "checkin", lambda _connection, record: record.info[_INFO_KEY].stop())

    def watch(self, record: sa.pool.ConnectionPoolEntry) -> Callable[[], bool]:
        """Attach a timer to a new connection; return a predicate for whether SQLite should interrupt its statement."""
        watch = record.info[_INFO_KEY] = _ReadTimer(self._seconds, self._places)
        return watch.is_over


class _ReadTimer:
    """Timer of one connection: the start of its read (processor time of its thread), and its slow-read permit."""

    def __init__(self, seconds: float, places: threading.Semaphore) -> None:
        self._seconds = seconds
        self._places = places
        self._began = 0.0
        self._slow = False

    def start(self) -> None:
        self._began = time.thread_time()

    def stop(self) -> None:
        if self._slow:
            self._slow = False
            self._places.release()

    def is_over(self) -> bool:
        """Return whether SQLite should interrupt the statement."""
        spent = time.thread_time() - self._began
        if spent > _SLOW_SECONDS and not self._slow:
            self._slow = self._places.acquire(blocking=False)
            return not self._slow
        return spent > self._seconds
