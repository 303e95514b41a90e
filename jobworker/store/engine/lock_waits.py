"""Admission to the connections of one database: while callers wait in vain, only one at a time waits long.

A lock whose holder hangs, or a server that does not answer, would otherwise keep every thread of a process busy.
"""

import threading
from queue import Empty, SimpleQueue

import psycopg
import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy

#: How long (s) callers wait for a lock or a connection after another one has waited in vain.
BRIEF_TIMEOUT_SECONDS = 0.2

#: A free connection comes within this time (s), or the caller is refused.
_CONNECTION_TIMEOUT_SECONDS = 3.0

#: PostgreSQL: for one transaction only.
_SET_BRIEF_TIMEOUT = f"SET LOCAL lock_timeout = {int(BRIEF_TIMEOUT_SECONDS * 1000)}"
_SET_REMAINING_TIMEOUT = sa.text(
    f"SELECT set_config('lock_timeout', greatest({int(BRIEF_TIMEOUT_SECONDS * 1000)}, setting::integer - :waited)::text, true) "
    "FROM pg_settings WHERE name = 'lock_timeout' AND setting <> '0'"
)

#: PostgreSQL's code for `lock_timeout`.
_LOCK_NOT_AVAILABLE = "55P03"


class ConnectionLimiter:
    """Places for callers, one for each connection, and what the last ones waited for in vain.

    Which rows and tables a transaction will lock is not known when it begins. So a lock that hangs refuses no caller:
    it makes the waits for locks short, until no caller that waited for `patience` (s) has done so in vain for a while.
    While no connection can be had, all callers but one are refused; the first that gets one ends that.
    """

    def __init__(self, clock: Clock, connections: int, lock_timeout_seconds: float) -> None:
        self.now = clock.monotonic
        self.lock_timeout_seconds = lock_timeout_seconds
        #: Each item is a place. A semaphore would do, at twenty times the cost.
        self.permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(connections):
            self.permits.put(None)
        #: At most one caller at a time waits long while others waited in vain.
        self.trial = threading.Lock()
        self.brief_until: float | None = None
        #: Whether the last caller that wanted a connection got none.
        self.is_unavailable = False

    @property
    def is_brief(self) -> bool:
        """Return whether a caller has recently waited for a lock in vain."""
        until = self.brief_until
        if until is not None and self.now() > until:
            self.brief_until = until = None
        return until is not None

    def admit(self) -> "ConnectionPermit":
        """Return a caller, which keeps a place in a `with` block."""
        return ConnectionPermit(self)


class ConnectionPermit:
    """A caller that wants a connection. Its lock waits are those of PostgreSQL; SQLite's writers use `FileLock`."""

    __slots__ = ("_briefly", "_since", "_tries", "_waits")

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._waits = limiter
        self._tries = self._briefly = False
        self._since = limiter.now()

    def __enter__(self) -> "ConnectionPermit":
        """Take the place of a connection; raise `DatabaseBusy` if none is free in time."""
        waits = self._waits
        hangs = waits.is_unavailable or waits.brief_until is not None
        if hangs:
            self._tries = waits.trial.acquire(blocking=False)
            if waits.is_unavailable and not self._tries:
                raise DatabaseBusy("the database has not answered the last requests; nothing was changed: try again")
        seconds = BRIEF_TIMEOUT_SECONDS if hangs and not self._tries else _CONNECTION_TIMEOUT_SECONDS
        try:
            waits.permits.get(timeout=seconds)
        except Empty:
            waits.is_unavailable = True
            self._end_trial()
            raise DatabaseBusy(
                "too many requests are being worked off at once: all connections to the database have been in use "
                f"for {seconds:g} s; nothing was changed: try again"
            ) from None
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Give the place back; raise `DatabaseBusy` instead of the time-out of a lock."""
        waits = self._waits
        waits.permits.put(None)
        if isinstance(error, sa.exc.OperationalError):
            if isinstance(error.orig, psycopg.errors.ConnectionTimeout):
                waits.is_unavailable = True
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                if not self._briefly:
                    waits.brief_until = waits.now() + waits.lock_timeout_seconds + 1.0
                self._end_trial()
                raise build_busy_error(
                    BRIEF_TIMEOUT_SECONDS if self._briefly else waits.lock_timeout_seconds
                ) from error
        self._end_trial()

    def shorten_lock_timeout(self, connection: sa.Connection) -> None:
        """Take what this caller has waited off its waits for locks, or wait `BRIEFLY` after others waited in vain."""
        waits = self._waits
        if waits.is_unavailable:
            waits.is_unavailable = False
        now = waits.now()
        if waits.brief_until is None and now - self._since <= BRIEF_TIMEOUT_SECONDS:
            return
        if self._briefly or connection.dialect.name != "postgresql":
            return
        if waits.is_brief and not self._tries:
            self._briefly = True
            connection.exec_driver_sql(_SET_BRIEF_TIMEOUT)
        elif now - self._since > BRIEF_TIMEOUT_SECONDS:
            connection.execute(_SET_REMAINING_TIMEOUT, {"waited": int((now - self._since) * 1000)})
            self._since = now

    def _end_trial(self) -> None:
        if self._tries:
            self._waits.trial.release()


def build_busy_error(seconds: float) -> DatabaseBusy:
    """Return the error of a caller that has waited `seconds` in vain."""
    return DatabaseBusy(
        f"another writer has kept the database locked for {seconds:.1f} s; nothing was changed: try again"
    )
