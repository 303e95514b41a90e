"""Group commit: work of many threads in few commits. Each result is committed; a failure affects its own work only."""

import contextlib
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.errors import DatabaseBusy
from jobworker.store import queues
from jobworker.store.database.database import Database, DatabaseTimeouts
from jobworker.store.database.file_lock import FileLock
from jobworker.store.tables import core
from tests.conftest import NOW
from tests.polling import wait_until

Work = Callable[[sa.Connection], Any]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Small file system, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        pytest.skip("only root can mount a small file system")
    subprocess.run(mount, check=True, timeout=30)
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Function that limits the size of files that this process writes (bytes)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def enable_early_spill(raw: Any, _: object) -> None:
    """Let SQLite write to the log before the commit, as it does for a transaction larger than its cache."""
    raw.execute("PRAGMA cache_size=10")


def disable_spill(raw: Any, _: object) -> None:
    """Let SQLite keep all pages in memory up to the commit."""
    raw.execute("PRAGMA cache_size=100000")


def make_small_work(queue: str) -> Work:
    """Return work that writes one row."""
    return lambda connection: queues.upsert_many(connection, [queue], NOW)


def insert_rows(connection: sa.Connection, count: int) -> None:
    """Write `count` rows of about 300 bytes."""
    rows = [{"name": f"{number:05}", "created_at": NOW, "pause_note": "x" * 250} for number in range(count)]
    connection.execute(sa.insert(core.queues), rows)


def commit_concurrently(
    database: Database, works: Sequence[Work], on_started: Callable[[int], object] = lambda _: None
) -> list[Any]:
    """Commit each work in its own thread; return the results or errors. `on_started` is called after each start."""
    outcomes: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            outcomes[number] = database.commit(works[number])
        except Exception as error:  # noqa: BLE001  the test looks at it
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for number, thread in enumerate(threads):
        thread.start()
        on_started(number)
    for thread in threads:
        thread.join()
    return outcomes


def commit_together(database: Database, works: Sequence[Work]) -> list[Any]:
    """Commit these works in one transaction, in this order; return the results or errors."""
    go_on = threading.Event()
    busy = threading.Event()

    def hold(_: sa.Connection) -> None:
        busy.set()
        go_on.wait(30)

    def begun(number: int) -> None:
        if number == 0:
            busy.wait(30)
        else:
            wait_until(lambda: len(database._group._waiting) == number, what="the work to wait")
        if number == len(works):
            go_on.set()

    return commit_concurrently(database, [hold, *works], begun)[1:]


def check_acknowledged_is_committed(database: Database, large: int, error: str = "full") -> None:
    """Commit small works and a large one that does not fit on the disk; check the result of each."""
    works = [make_small_work("a"), make_small_work("b")]
    works.insert(large, lambda connection: insert_rows(connection, 20_000))
    outcomes = commit_together(database, works)
    with database.read() as connection:
        queue_names = set(queues.list_names(connection, 100)) - {"before"}
    assert queue_names == {
        name for name, outcome in zip("ab", outcomes[:large] + outcomes[large + 1 :], strict=True) if outcome is None
    }
    assert isinstance(outcomes[large], sa.exc.OperationalError)
    assert error in str(outcomes[large])


def test_concurrent_commits_return_their_own_result_or_error(database: Database) -> None:
    outcomes: dict[int, object] = {}
    together = threading.Barrier(12)

    def work(number: int) -> None:
        def write(connection: sa.Connection) -> int:
            queues.upsert_many(connection, [f"queue-{number}"], NOW)
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
        assert queues.list_names(connection, 100) == sorted(f"queue-{number}" for number in range(12) if number % 3)


def test_waiting_threads_share_a_commit(sqlite_database: Database) -> None:
    commits: list[int] = []
    sa.event.listen(sqlite_database._writer, "commit", lambda _: commits.append(1))
    commit_together(sqlite_database, [lambda _: None] * 8)
    assert len(commits) == 2


@pytest.mark.parametrize("large", [0, 1, 2])
def test_full_database_loses_no_acknowledged_commit(sqlite_database: Database, large: int) -> None:
    with sqlite_database.read() as connection:
        pages = connection.scalar(sa.text("PRAGMA page_count"))
    sa.event.listen(
        sqlite_database._writer, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count={pages + 200}")
    )
    check_acknowledged_is_committed(sqlite_database, large)


def test_full_disk_loses_no_acknowledged_commit(small_disk: Path, sqlite_url: str) -> None:
    database = Database(f"sqlite:///{shutil.copy(sqlite_url.removeprefix('sqlite:///'), small_disk / 'jobworker.db')}")
    sa.event.listen(database._writer, "connect", enable_early_spill)
    try:
        check_acknowledged_is_committed(database, large=1)
    finally:
        database.dispose()


@pytest.mark.parametrize("early", [True, False], ids=["in the work", "in the commit"])
def test_io_error_loses_no_acknowledged_commit(
    sqlite_database: Database, largest_file: Callable[[int], None], early: bool
) -> None:
    sa.event.listen(sqlite_database._writer, "connect", enable_early_spill if early else disable_spill)
    sqlite_database.commit(lambda connection: queues.upsert_many(connection, ["before"], NOW))
    # A write beyond this size fails with EFBIG: "disk I/O error".
    largest_file(sqlite_database.get_log_size() + 200_000)
    check_acknowledged_is_committed(sqlite_database, large=1, error="disk I/O error")


def test_database_error_suppressed_by_the_work_is_raised(sqlite_database: Database) -> None:
    sa.event.listen(sqlite_database._writer, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=1"))

    def write(connection: sa.Connection) -> None:
        with contextlib.suppress(sa.exc.OperationalError):
            insert_rows(connection, 5_000)

    outcomes = commit_together(sqlite_database, [write, make_small_work("a")])
    assert all(isinstance(outcome, sa.exc.OperationalError) for outcome in outcomes)
    with pytest.raises(sa.exc.OperationalError, match="rolled the transaction back"):
        sqlite_database.commit(write)
    with sqlite_database.read() as connection:
        assert queues.list_names(connection, 100) == []


def test_suppressed_error_that_rolled_back_the_transaction_is_raised(database: Database) -> None:
    def write() -> None:
        with database.write() as connection:
            queues.upsert_many(connection, ["lost"], NOW)
            if database.is_sqlite:
                connection.exec_driver_sql("ROLLBACK")  # SQLite rolls back by itself when the disk is full.
            with contextlib.suppress(sa.exc.DBAPIError):
                connection.exec_driver_sql("SELECT nothing")  # A failed statement ends the transaction of PostgreSQL.

    with pytest.raises(sa.exc.OperationalError, match="rolled the transaction back"):
        write()
    with database.read() as connection:
        assert queues.list_names(connection, 100) == []


def test_commit_without_statement_returns_result(database: Database) -> None:
    assert database.commit(lambda _: "nothing") == "nothing"


def test_work_that_timed_out_waiting_is_not_executed_later(sqlite_url: str) -> None:
    database = Database(sqlite_url, DatabaseTimeouts(lock=0.3))
    busy, go_on = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        busy.set()
        go_on.wait(30)

    first = threading.Thread(target=database.commit, args=(hold,))
    first.start()
    busy.wait(30)
    # The first thread has led its turn; the work that runs now is its own.
    with pytest.raises(DatabaseBusy, match="nothing was changed"):
        database.commit(make_small_work("late"))
    go_on.set()
    first.join()
    database.commit(make_small_work("after"))
    with database.read() as connection:
        assert queues.list_names(connection, 100) == ["after"]
    database.dispose()


def test_waiting_thread_leads_until_one_gets_the_file_lock(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url, DatabaseTimeouts(lock=0.3))
    holder = FileLock(Path(f"{sqlite_url.removeprefix('sqlite:///')}.lock"), SystemClock(), 1.0)
    with holder.hold(SystemClock().monotonic()):
        outcomes = commit_concurrently(
            database, [make_small_work("early"), make_small_work("early"), make_small_work("early")]
        )
        assert [type(outcome) for outcome in outcomes] == [DatabaseBusy] * 3
    database.commit(make_small_work("after"))
    with database.read() as connection:
        assert queues.list_names(connection, 100) == ["after"]
    database.dispose()


def test_failed_commit_raises_for_every_thread_in_it(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    sa.event.listen(sqlite_database._writer, "commit", refuse)
    with pytest.raises(OSError, match="disk is full"):
        sqlite_database.commit(lambda connection: queues.upsert_many(connection, ["lost"], NOW))
    sa.event.remove(sqlite_database._writer, "commit", refuse)
    with sqlite_database.read() as connection:
        assert queues.list_names(connection, 100) == []
