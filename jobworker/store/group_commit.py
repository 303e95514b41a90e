"""Several threads, one commit: what waits for SQLite's single writer goes into one transaction.

A commit waits for the disk, and SQLite lets one transaction write at a time; so requests that arrive
while one commits would each wait for a disk write of their own. Whoever gets its turn takes the others
along. Each piece of work is kept apart by a savepoint: one that fails undoes only itself.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

Answer = TypeVar("Answer")
Transaction = Callable[[], contextlib.AbstractContextManager[sa.Connection]]


class _Piece(Generic[Answer]):
    """One thread's work, and what came of it."""

    def __init__(self, work: Callable[[sa.Connection], Answer]) -> None:
        self.work = work
        self.done = False
        self.error: BaseException | None = None
        self.answer: Any = None

    def run_apart(self, connection: sa.Connection) -> None:
        """Run in a savepoint, so that a failure is nobody else's."""
        try:
            with connection.begin_nested():
                self.answer = self.work(connection)
        except Exception as error:  # noqa: BLE001  it belongs to the thread that brought the work
            self.error = error


class GroupCommit:
    """Runs work in transactions that `transaction` opens, sharing one among all threads that wait."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._waiting: list[_Piece[Any]] = []
        self._arriving = threading.Lock()
        self._turn = threading.Lock()

    def run(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        """The answer of `work`, once it is committed. Raises what `work` or the commit raised."""
        piece = _Piece(work)
        with self._arriving:
            self._waiting.append(piece)
        with self._turn:
            if not piece.done:
                self._commit_all()
        if piece.error is not None:
            raise piece.error
        answer: Answer = piece.answer
        return answer

    def _commit_all(self) -> None:
        with self._arriving:
            pieces, self._waiting = self._waiting, []
        try:
            with self._transaction() as connection:
                if len(pieces) == 1:
                    pieces[0].answer = pieces[0].work(connection)
                else:
                    for piece in pieces:
                        piece.run_apart(connection)
        except BaseException as error:  # noqa: BLE001  the commit failed: nobody's work is done
            for piece in pieces:
                piece.error = piece.error or error
        finally:
            for piece in pieces:
                piece.done = True
