"""Group commit: work of several threads that wait for SQLite's single writer, in one transaction.

A commit waits for the disk, and SQLite lets one transaction write at a time; so each request that arrives
during a commit would wait for a disk write of its own. One thread is the leader: it opens the transaction,
runs the work of all waiting threads, commits, and passes the leadership on. Each piece of work runs in a
savepoint: a failed piece undoes only itself. SQLite rolls back the whole transaction by itself when the disk is
full or cannot be read or written, or memory runs out; then the work of every thread is lost, and the error is
raised in each thread.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import DatabaseBusy
from jobworker.store.database.lock_waits import build_busy_error

Result = TypeVar("Result")

#: Function that opens a transaction; its argument is the deadline (of `Clock.monotonic`) for the lock.
TransactionFactory = Callable[[float], contextlib.AbstractContextManager[sa.Connection]]

#: Additional timeout of a thread whose work is being written (s): only a hanging disk takes that long.
_RESULT_TIMEOUT_SECONDS = 10.0


class _PendingWork(Generic[Result]):
    """Work of one thread, and its outcome."""

    def __init__(self, work: Callable[[sa.Connection], Result]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        #: Set once the outcome is known, or once this thread is the leader.
        self.wakeup = threading.Event()
        self.is_leader = False

    def run_in_savepoint(self, connection: sa.Connection) -> None:
        """Run the work in a savepoint and keep the outcome; raise if the transaction itself is lost."""
        connection.exec_driver_sql("SAVEPOINT piece")
        try:
            self.result = self.work(connection)
        except Exception as error:
            if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                raise
            connection.exec_driver_sql("ROLLBACK TO piece")
            self.error = error
        # Fails if SQLite has rolled back the transaction of the savepoint, even if the work has caught that error.
        connection.exec_driver_sql("RELEASE piece")


class GroupCommit:
    """Group commit of the work of several threads; `get_timeout` returns the timeout of each thread (s)."""

    def __init__(self, transaction: TransactionFactory, clock: Clock, get_timeout: Callable[[], float]) -> None:
        self._transaction = transaction
        self._clock = clock
        self._get_timeout = get_timeout
        self._waiting: list[_PendingWork[Any]] = []
        self._has_leader = False
        self._lock = threading.Lock()

    def run(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Return the result of `work` once it is committed; raise the exception of `work` or of the commit.

        `work` runs at most once, and not at all if `DatabaseBusy` is raised.
        """
        piece, timeout_seconds = _PendingWork(work), self._get_timeout()
        deadline = self._clock.monotonic() + timeout_seconds
        with self._lock:
            self._waiting.append(piece)
            piece.is_leader, self._has_leader = not self._has_leader, True
        if not piece.is_leader:
            self._wait_for_result(piece, timeout_seconds)
        if piece.is_leader:
            self._commit_pending(piece, deadline)
        if piece.error is not None:
            raise piece.error
        answer: Result = piece.result
        return answer

    def _wait_for_result(self, piece: _PendingWork[Any], timeout_seconds: float) -> None:
        """Wait until another thread has run the piece, or makes this thread the leader."""
        if piece.wakeup.wait(timeout_seconds):
            return
        with self._lock:
            if piece.wakeup.is_set():
                return
            if piece in self._waiting:
                self._waiting.remove(piece)
                raise build_busy_error(timeout_seconds)
        if not piece.wakeup.wait(_RESULT_TIMEOUT_SECONDS):
            raise sa.exc.TimeoutError("the disk does not finish a write; whether it took place is not known")

    def _commit_pending(self, own: _PendingWork[Any], deadline: float) -> None:
        """Commit all waiting pieces, then make the next thread the leader."""
        pieces = [own]
        try:
            with self._transaction(deadline) as connection:
                with self._lock:
                    pieces, self._waiting = self._waiting, []
                _run_all(pieces, connection)
        except BaseException as error:  # noqa: BLE001  no piece of this transaction is in the database
            if isinstance(error, DatabaseBusy):
                # Waiting for the lock has timed out: the other threads must not wait for it one after the other.
                with self._lock:
                    pieces, self._waiting = list({*pieces, *self._waiting}), []
            for piece in pieces:
                piece.error = error
        with self._lock:
            if own in self._waiting:
                self._waiting.remove(own)
            for piece in pieces:
                piece.wakeup.set()
            if self._waiting:
                self._waiting[0].is_leader = True
                self._waiting[0].wakeup.set()
            else:
                self._has_leader = False


def _run_all(pieces: list[_PendingWork[Any]], connection: sa.Connection) -> None:
    if len(pieces) == 1:
        pieces[0].result = pieces[0].work(connection)
        return
    for piece in pieces:
        piece.run_in_savepoint(connection)
