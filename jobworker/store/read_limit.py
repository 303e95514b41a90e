"""How long one may read from SQLite: a list whose filters no index serves must not take the processor from others.

SQLite calls back every so many steps. PostgreSQL has `statement_timeout` for this.
"""

import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

#: A callback every so many steps of SQLite's machine: every few tenths of a millisecond.
_STEPS = 20_000

#: Processor time (s) after which reading counts as slow; so many may be slow at a time in one process.
_SLOW = 0.25
_SLOW_AT_A_TIME = 2

#: Under this name a connection keeps its watch.
_KEY = "read_limit"


class ReadLimit:
    """Interrupts what reads for more than `seconds` of processor time in one transaction."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = threading.Semaphore(_SLOW_AT_A_TIME)

    def attach(self, engine: sa.Engine) -> None:
        """Watch every connection of this engine."""
        event.listen(engine, "connect", self._watch)
        event.listen(engine, "begin", lambda connection: connection.connection.info[_KEY].begin())
        event.listen(engine, "checkin", lambda _connection, record: record.info[_KEY].end())

    def _watch(self, connection: Any, record: Any) -> None:
        watch = record.info[_KEY] = _Watch(self._seconds, self._places)
        connection.set_progress_handler(watch.is_over, _STEPS)


class _Watch:
    """One connection: since when it reads (its thread's processor time), and whether it has a place for slow ones."""

    def __init__(self, seconds: float, places: threading.Semaphore) -> None:
        self._seconds = seconds
        self._places = places
        self._began = 0.0
        self._slow = False

    def begin(self) -> None:
        self._began = time.thread_time()

    def end(self) -> None:
        if self._slow:
            self._slow = False
            self._places.release()

    def is_over(self) -> bool:
        """Whether SQLite shall interrupt the statement."""
        spent = time.thread_time() - self._began
        if spent > _SLOW and not self._slow:
            self._slow = self._places.acquire(blocking=False)
            return not self._slow
        return spent > self._seconds
