"""Admission to the connections of one database: after a timeout, only one caller at a time waits long.

A lock whose holder hangs, or a server that does not respond, would otherwise block every thread of a process.
"""

import threading
from queue import Empty, SimpleQueue

import psycopg
import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy

#: Timeout of callers for a lock or a connection after another caller has timed out (s).
BRIEF_TIMEOUT_SECONDS = 0.2

#: Timeout of a caller for a free connection (s).
_CONNECTION_TIMEOUT_SECONDS = 3.0

#: Statements for PostgreSQL that set the lock timeout of one transaction.
_SET_BRIEF_TIMEOUT = f"SET LOCAL lock_timeout = {int(BRIEF_TIMEOUT_SECONDS * 1000)}"
_SET_REMAINING_TIMEOUT = sa.text(
    f"SELECT set_config('lock_timeout', greatest({int(BRIEF_TIMEOUT_SECONDS * 1000)}, setting::integer - :waited)"
    "::text, true) "
    "FROM pg_settings WHERE name = 'lock_timeout' AND setting <> '0'"
)

#: PostgreSQL's code for `lock_timeout`.
_LOCK_NOT_AVAILABLE = "55P03"


class ConnectionLimiter:
    """Permits for callers, one for each connection, and the state of recent timeouts.

    The rows and tables that a transaction will lock are not known when it begins. So a hanging lock does not refuse
    callers: it shortens the waits for locks, until no caller that waited for `lock_timeout_seconds` has timed out for
    a while. While no connection is available, all callers but one are refused; the first caller that gets a connection
    ends this state.
    """

    def __init__(self, clock: Clock, connections: int, lock_timeout_seconds: float) -> None:
        self.now = clock.monotonic
        self.lock_timeout_seconds = lock_timeout_seconds
        #: Each item is a permit. A semaphore would cost twenty times as much.
        self.permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(connections):
            self.permits.put(None)
        #: Held by the only caller that waits long after other callers have timed out.
        self.trial = threading.Lock()
        self.brief_until: float | None = None
        #: Whether the last caller got no connection.
        self.is_unavailable = False

    @property
    def is_brief(self) -> bool:
        """True while a recent timeout of a caller shortens the waits for locks."""
        until = self.brief_until
        if until is not None and self.now() > until:
            self.brief_until = until = None
        return until is not None

    def admit(self) -> "ConnectionPermit":
        """Return a permit, which is held in a `with` block."""
        return ConnectionPermit(self)


class ConnectionPermit:
    """Permit of a caller for a connection. Covers the lock waits of PostgreSQL; SQLite's writers use `FileLock`."""

    __slots__ = ("_briefly", "_since", "_tries", "_waits")

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._waits = limiter
        self._tries = self._briefly = False
        self._since = limiter.now()

    def __enter__(self) -> "ConnectionPermit":
        """Acquire a permit; raise `DatabaseBusy` if no connection is free in time."""
        waits = self._waits
        hangs = waits.is_unavailable or waits.brief_until is not None
        if hangs:
            self._tries = waits.trial.acquire(blocking=False)
            if waits.is_unavailable and not self._tries:
                raise DatabaseBusy(
                    "the database has not responded to the last requests; nothing was changed: try again"
                )
        seconds = BRIEF_TIMEOUT_SECONDS if hangs and not self._tries else _CONNECTION_TIMEOUT_SECONDS
        try:
            waits.permits.get(timeout=seconds)
        except Empty:
            waits.is_unavailable = True
            self._end_trial()
            raise DatabaseBusy(
                "too many concurrent requests: all connections to the database have been in use "
                f"for {seconds:g} s; nothing was changed: try again"
            ) from None
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Release the permit; raise `DatabaseBusy` in place of the timeout of a lock."""
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
        """Subtract the time already waited from the lock timeout; use `BRIEF_TIMEOUT_SECONDS` after recent timeouts."""
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
    """Return the error of a caller that timed out after `seconds`."""
    return DatabaseBusy(
        f"another writer has kept the database locked for {seconds:.1f} s; nothing was changed: try again"
    )
