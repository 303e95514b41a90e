"""Work of many threads in few commits: every answer is of something committed, a failure is its own."""

import threading

import pytest
import sqlalchemy as sa

from jobworker.store import queues
from jobworker.store.database import Database
from tests.conftest import NOW


def test_each_thread_gets_its_own_answer_or_error(database: Database) -> None:
    outcomes: dict[int, object] = {}
    together = threading.Barrier(12)

    def work(number: int) -> None:
        def write(connection: sa.Connection) -> int:
            queues.remember(connection, [f"queue-{number}"], NOW)
            if number % 3 == 0:
                raise ValueError(number)
            return number

        together.wait()
        try:
            outcomes[number] = database.commit(write)
        except ValueError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {number for number, outcome in outcomes.items() if outcome == number} == {1, 2, 4, 5, 7, 8, 10, 11}
    with database.read() as connection:
        assert queues.names(connection, 100) == sorted(f"queue-{number}" for number in range(12) if number % 3)


def test_waiting_threads_share_a_commit(sqlite_database: Database) -> None:
    commits: list[int] = []
    sa.event.listen(sqlite_database._writer, "commit", lambda _: commits.append(1))
    busy, go_on = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        busy.set()
        go_on.wait(30)

    first = threading.Thread(target=sqlite_database.commit, args=(hold,))
    first.start()
    busy.wait(30)
    others = [threading.Thread(target=sqlite_database.commit, args=(lambda _: None,)) for _ in range(8)]
    for thread in others:
        thread.start()
    while len(sqlite_database._group._waiting) < 8:
        pass
    go_on.set()
    for thread in [first, *others]:
        thread.join()

    assert len(commits) == 2


def test_a_commit_that_fails_is_told_to_everybody_in_it(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    sa.event.listen(sqlite_database._writer, "commit", refuse)
    with pytest.raises(OSError, match="disk is full"):
        sqlite_database.commit(lambda connection: queues.remember(connection, ["lost"], NOW))
    sa.event.remove(sqlite_database._writer, "commit", refuse)
    with sqlite_database.read() as connection:
        assert queues.names(connection, 100) == []
