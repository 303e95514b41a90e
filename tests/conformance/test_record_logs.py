"""What the relay keeps of what jobs write: each line once, in order, and no more than a log may hold."""

import itertools
from typing import Any

import pytest

from jobworker.domain import events, job_log
from jobworker.domain.events import Event, Kind
from jobworker.domain.job_log import Dropped
from jobworker.relay import log_lines as recorder
from jobworker.relay.log_lines import record_logs
from jobworker.store import log_lines, story
from jobworker.store.database import Database
from jobworker.store.log_lines import Size
from tests.conformance.worlds import NOW, accepted, new

_numbers = itertools.count(1)


def said(execution: str, message: str, attempt: int = 1, **data: Any) -> Event:
    """A line on the stream, each later than the one before."""
    given = {"level": "INFO", "logger": "job", "message": message, "at": NOW.isoformat(), **data}
    return _event(Kind.LOG, execution, attempt, given)


def cut(execution: str, lines: Any, size: int, attempt: int = 1) -> Event:
    """A worker says that it has dropped so many lines."""
    return _event(Kind.LOG_CUT, execution, attempt, {"dropped": [lines, size]})


def _event(kind: Kind, execution: str, attempt: int, data: dict[str, Any]) -> Event:
    event_id = events.format_id((int(NOW.timestamp() * 1000) + next(_numbers), 0))
    return Event(event_id, kind, execution, attempt, data)


@pytest.fixture
def execution(database: Database) -> str:
    """An execution that has said nothing yet."""
    with database.write() as connection:
        [made] = accepted(connection, new())
    return made


def tell(database: Database, *reports: Event) -> None:
    """One transaction of the relay."""
    with database.write() as connection:
        record_logs(connection, reports)


def kept(database: Database, execution: str) -> list[str]:
    """The lines as one reads them."""
    with database.read() as connection:
        return [line.message for line in story.logs_after(connection, execution, "", 1000)]


def size(database: Database, execution: str) -> Size:
    """What the execution knows of its log."""
    with database.read() as connection:
        return log_lines.sizes(connection, [execution])[execution]


def test_lines_are_kept_in_their_order_and_once(database: Database, execution: str) -> None:
    first, second = said(execution, "one"), said(execution, "two", attempt=2)
    tell(database, first, second)
    tell(database, said(execution, "three"))
    assert kept(database, execution) == ["one", "two", "three"]
    assert size(database, execution) == Size(sum(map(job_log.size, ["one", "two", "three"])), Dropped())


def test_lines_of_nobody_and_lines_that_nobody_wrote_are_left_out(database: Database, execution: str) -> None:
    tell(
        database,
        said("00000000-0000-7000-8000-000000000000", "nobody's"),
        said(execution, "bad", at="yesterday"),
        cut(execution, "many", 1),
        said(execution, "good"),
    )
    assert kept(database, execution) == ["good"]


def test_a_line_that_is_too_long_is_cut_here_too(database: Database, execution: str) -> None:
    tell(database, said(execution, "x" * 100_000))
    [line] = kept(database, execution)
    assert line == job_log.cut_line("x" * 100_000)


def test_a_full_log_ends_with_one_line_that_counts_the_rest(
    database: Database, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_LOG", 3 * job_log.size("line 0"))
    tell(database, *(said(execution, f"line {number}") for number in range(5)))
    lines = [f"line {number}" for number in range(3)]
    assert kept(database, execution) == [*lines, job_log.full(Dropped(2, 2 * job_log.size("line 3")))]

    # The next attempt has no log of its own, and a short line does not slip in behind a long one.
    tell(database, said(execution, "x", attempt=2), cut(execution, 1000, 50_000, attempt=2))
    dropped = Dropped(1003, 50_000 + 2 * job_log.size("line 3") + job_log.size("x"))
    assert kept(database, execution) == [*lines, job_log.full(dropped)]
    assert size(database, execution) == Size(3 * job_log.size("line 0"), dropped)


def test_the_mark_moves_on_with_what_it_says(
    database: Database, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_LOG", 0)
    marks = []
    for _ in range(3):
        tell(database, *(said(execution, "x") for _ in range(7)))
        with database.read() as connection:
            [mark] = story.logs_after(connection, execution, "", 10)
        marks.append(mark.seq)
    assert marks == sorted(set(marks))
    assert all(map(log_lines.is_cut_mark, marks))
    assert not log_lines.is_cut_mark(log_lines.sortable("1700000000000-3"))


def test_what_a_worker_dropped_is_told_although_the_log_is_not_full(database: Database, execution: str) -> None:
    tell(database, said(execution, "one"), cut(execution, 7, 700))
    tell(database, said(execution, "two"))
    assert kept(database, execution) == ["one", job_log.full(Dropped(8, 700 + job_log.size("two")))]
