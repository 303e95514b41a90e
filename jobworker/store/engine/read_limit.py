"""A limit on reading from SQLite: a list whose filters no index serves must not take the processor from others.

PostgreSQL has `statement_timeout` for this.
"""

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import event

#: Processor time (s) after which reading counts as slow; so many may be slow at a time in one process.
_SLOW_SECONDS = 0.25
_MAX_SLOW_READS = 2

#: Under this name a connection keeps its watch.
_INFO_KEY = "read_limit"


class ReadLimit:
    """Interrupts what reads for more than `seconds` of processor time in one transaction."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = threading.Semaphore(_MAX_SLOW_READS)

    def attach(self, engine: sa.Engine) -> None:
        """Begin with each transaction of this engine, whose connections are watched, and end with it."""
        event.listen(engine, "begin", lambda connection: connection.connection.info[_INFO_KEY].start())
        event.listen(engine, "checkin", lambda _connection, record: record.info[_INFO_KEY].stop())

    def watch(self, record: sa.pool.ConnectionPoolEntry) -> Callable[[], bool]:
        """Watch a new connection; return what says whether SQLite shall interrupt its statement."""
        watch = record.info[_INFO_KEY] = _ReadTimer(self._seconds, self._places)
        return watch.is_over


class _ReadTimer:
    """One connection: since when it reads (its thread's processor time), and whether it has a place for slow ones."""

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
        """Whether SQLite shall interrupt the statement."""
        spent = time.thread_time() - self._began
        if spent > _SLOW_SECONDS and not self._slow:
            self._slow = self._places.acquire(blocking=False)
            return not self._slow
        return spent > self._seconds
