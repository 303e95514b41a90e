"""Admission to the connections of one database: while callers wait in vain, only one at a time waits long.

A lock whose holder hangs, or a server that does not answer, would otherwise keep every thread of a process busy.
"""

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy

#: How long (s) callers wait for a lock or a connection after another one has waited in vain.
BRIEFLY = 0.2

#: A free connection comes within this time (s), or the caller is refused.
_PLACE_WITHIN = 3.0

#: PostgreSQL: for one transaction only.
_WAIT_BRIEFLY = f"SET LOCAL lock_timeout = {int(BRIEFLY * 1000)}"
_WAIT_FOR_THE_REST = sa.text(
    f"SELECT set_config('lock_timeout', greatest({int(BRIEFLY * 1000)}, setting::integer - :waited)::text, true) "
    "FROM pg_settings WHERE name = 'lock_timeout' AND setting <> '0'"
)

#: PostgreSQL's code for `lock_timeout`.
_LOCK_NOT_AVAILABLE = "55P03"


class LockWaits:
    """Places for callers, one for each connection, and what the last ones waited for in vain.

    Which rows and tables a transaction will lock is not known when it begins. So a lock that hangs refuses nobody:
    it makes the waits for locks short, and it is over when no caller has waited for `patience` (s) in vain for a while.
    While no connection can be had, all callers but one are refused; the first that gets one ends that.
    """

    def __init__(self, clock: Clock, places: int, patience: float) -> None:
        self._clock = clock
        self._places = threading.Semaphore(places)
        self._patience = patience
        #: At most one caller at a time waits long while others waited in vain.
        self._trial = threading.Lock()
        self._brief_until: float | None = None
        #: Whether the last caller that wanted a connection got none.
        self.is_cut_off = False

    def now(self) -> float:
        """Return the time of `Clock.monotonic`."""
        return self._clock.monotonic()

    @property
    def is_brief(self) -> bool:
        """Whether a caller has recently waited for a lock in vain."""
        until = self._brief_until
        if until is not None and self.now() > until:
            self._brief_until = until = None
        return until is not None

    @contextlib.contextmanager
    def admit(self) -> Iterator["Caller"]:
        """Keep a place for a caller; raise `DatabaseBusy` for want of one."""
        if self._brief_until is None and not self.is_cut_off:
            with self._place(Caller(self, tries=False), _PLACE_WITHIN) as caller:
                yield caller
            return
        tries = self._trial.acquire(blocking=False)
        try:
            if self.is_cut_off and not tries:
                raise DatabaseBusy("the database has not answered the last requests; nothing was changed: try again")
            with self._place(Caller(self, tries), _PLACE_WITHIN if tries else BRIEFLY) as caller:
                yield caller
        finally:
            if tries:
                self._trial.release()

    def in_vain(self, briefly: bool) -> DatabaseBusy:
        """Note that a caller has waited for a lock in vain; return its error."""
        if not briefly:
            self._brief_until = self.now() + self._patience + 1.0
        return waited_too_long(BRIEFLY if briefly else self._patience)

    @contextlib.contextmanager
    def _place(self, caller: "Caller", seconds: float) -> Iterator["Caller"]:
        if not self._places.acquire(timeout=seconds):
            self.is_cut_off = True
            raise DatabaseBusy(
                "too many requests are being worked off at once: all connections to the database have been in use "
                f"for {seconds:g} s; nothing was changed: try again"
            )
        try:
            yield caller
        except sa.exc.OperationalError as error:
            if isinstance(error.orig, psycopg.errors.ConnectionTimeout):
                self.is_cut_off = True
            raise
        finally:
            self._places.release()


class Caller:
    """One that has a place. Locks are those of PostgreSQL: the writers of SQLite wait elsewhere."""

    __slots__ = ("_briefly", "_since", "_tries", "_waits")

    def __init__(self, waits: LockWaits, tries: bool) -> None:
        self._waits = waits
        self._tries = tries
        self._briefly = False
        self._since = waits.now()

    @contextlib.contextmanager
    def transaction(self, connection: sa.Connection) -> Iterator[None]:
        """Raise `DatabaseBusy` instead of the time-out of a lock, and let others know that it was waited for."""
        self._waits.is_cut_off = False
        self.shorten(connection)
        try:
            yield
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            raise self._waits.in_vain(self._briefly) from error

    def shorten(self, connection: sa.Connection) -> None:
        """Take what this caller has waited off its waits for locks, or wait `BRIEFLY` after others waited in vain."""
        now = self._waits.now()
        if self._briefly:
            return
        if self._waits.is_brief and not self._tries:
            self._briefly = True
            connection.exec_driver_sql(_WAIT_BRIEFLY)
        elif now - self._since > BRIEFLY and connection.dialect.name == "postgresql":
            connection.execute(_WAIT_FOR_THE_REST, {"waited": int((now - self._since) * 1000)})
            self._since = now


def waited_too_long(seconds: float) -> DatabaseBusy:
    """Return the error of a caller that has waited `seconds` in vain."""
    return DatabaseBusy(
        f"another writer has kept the database locked for {seconds:.1f} s; nothing was changed: try again"
    )
