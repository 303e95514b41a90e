"""Of executions with the same unique key one is there: whoever asks, and however many ask at once."""

import datetime as dt
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.errors import UniqueKeyConflict
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.admission import Submission
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.services.submissions import submission
from jobworker.services.submissions.commit import IdempotencyKey
from jobworker.store import jobs, tasks
from jobworker.store.engine.database import Database
from jobworker.store.executions import executions, unique_keys
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, make_task

HOUR = dt.timedelta(hours=1)


class UniqueJobDriver:
    """Where executions of one unique job are submitted."""

    def __init__(self, database: Database, clock: ManualClock, **policy: Any) -> None:
        self.database = database
        self.clock = clock
        made, problems = policies.normalize({"unique": policy})
        assert not problems
        with database.write() as connection:
            tasks.upsert(connection, make_task("report", Parameter("month"), Parameter("note", required=False)))
            jobs.upsert(connection, JobDefinition("report", "report", policies=made), JobOwner.API, "ann", NOW)

    def submit(self, month: str = "may", **fields: Any) -> ExecutionRow:
        """Submit one."""
        wanted = Submission(job="report", parameters={"month": month}, **fields)
        return submission.submit(self.database, self.clock, wanted, "ann")[0]

    def submit_batch(self, *months: str) -> Sequence[str]:
        """Submit a batch."""
        wanted = [Submission(job="report", parameters={"month": month}) for month in months]
        return submission.submit_batch(self.database, self.clock, wanted, "ann").execution_ids

    def set_state(self, execution: str, state: ExecutionState, **values: Any) -> None:
        """As if a worker had reported."""
        ended = {"finished_at": NOW} if state is ExecutionState.SUCCEEDED else {}
        with self.database.write() as connection:
            mine = sa.update(core.executions).where(core.executions.c.id == execution)
            connection.execute(mine.values(state=state, **ended, **values))

    def get(self, execution: str) -> ExecutionRow:
        """As it stands."""
        with self.database.read() as connection:
            row = executions.get(connection, execution)
        assert row is not None
        return row

    def count_executions(self) -> int:
        """How many executions there are."""
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(core.executions)) or 0


def test_the_second_is_refused_and_told_of_the_first(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}")
    first = door.submit()
    with pytest.raises(UniqueKeyConflict, match=first.id):
        door.submit()
    assert door.submit("june").id != first.id
    assert door.count_executions() == 2


@pytest.mark.parametrize(
    ("until", "states"),
    [
        ("started", [(ExecutionState.SCHEDULED, True), (ExecutionState.QUEUED, True), (ExecutionState.RUNNING, False)]),
        (
            "finished",
            [(ExecutionState.RUNNING, True), (ExecutionState.RETRYING, True), (ExecutionState.SUCCEEDED, False)],
        ),
    ],
)
def test_until(database: Database, clock: ManualClock, until: str, states: list[tuple[ExecutionState, bool]]) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", until=until)
    first = door.submit()
    for state, holds in states:
        started = state in (ExecutionState.RUNNING, ExecutionState.RETRYING)
        door.set_state(first.id, state, **({"started_attempt": 1} if started else {}))
        if holds:
            with pytest.raises(UniqueKeyConflict):
                door.submit()
        else:
            assert door.submit().id != first.id


def test_for_a_time_whatever_becomes_of_it(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", **{"for": 60})
    first = door.submit()
    door.set_state(first.id, ExecutionState.SUCCEEDED)
    clock.advance(59)
    with pytest.raises(UniqueKeyConflict):
        door.submit()
    clock.advance(2)
    assert door.submit().id != first.id


def test_the_first_answers_for_the_second(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    first = door.submit()
    assert door.submit().id == first.id
    assert door.count_executions() == 1


def test_the_second_replaces_the_first_while_that_waits(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict="replace")
    scheduled = door.submit(delay=3600)
    queued = door.submit()
    assert door.get(scheduled.id).state is ExecutionState.CANCELLED
    assert door.get(scheduled.id).reason == f"replaced by execution {queued.id}"
    third = door.submit()
    assert door.get(queued.id).cancel_requested_by == f"execution:{third.id}"
    assert third.state is ExecutionState.QUEUED
    door.set_state(third.id, ExecutionState.RUNNING, started_attempt=1)
    with pytest.raises(UniqueKeyConflict, match="has started"):
        door.submit()
    assert door.count_executions() == 3


def test_without_a_key_the_parameters_are_it(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock)
    door.submit()
    door.submit("june")
    with pytest.raises(UniqueKeyConflict):
        door.submit()


def test_in_a_batch_one_that_is_refused_refuses_all(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}")
    with pytest.raises(UniqueKeyConflict) as caught:
        door.submit_batch("may", "june", "may")
    assert [each.pointer for each in caught.value.errors] == ["/executions/2"]
    assert door.count_executions() == 0
    assert len(door.submit_batch("may", "june")) == 2


def test_in_a_batch_the_first_or_the_last_answers(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    there = door.submit("june").id
    may, june, may_again, july = door.submit_batch("may", "june", "may", "july")
    assert (june, may_again) == (there, may)
    assert len({may, june, july}) == door.count_executions() == 3


def test_in_a_batch_each_replaces_the_one_before_it(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict="replace")
    there = door.submit("may", delay=60).id
    one, two, three, june = door.submit_batch("may", "may", "may", "june")
    assert one == two == three != june
    assert door.get(there).state is ExecutionState.CANCELLED
    assert door.count_executions() == 3


def test_a_repeated_request_is_answered_with_what_answered_the_first(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    first = door.submit()
    wanted = Submission(job="report", parameters={"month": "may"})
    once = IdempotencyKey("order-1", 3600)
    row, _ = submission.submit(database, clock, wanted, "ann", once)
    assert row.id == first.id
    door.set_state(first.id, ExecutionState.SUCCEEDED)
    again, replayed = submission.submit(database, clock, wanted, "ann", once)
    assert (again.id, replayed) == (first.id, True)


@pytest.mark.parametrize("on_conflict", ["reject", "return"])
def test_of_many_at_once_one_wins(database: Database, clock: ManualClock, on_conflict: str) -> None:
    door = UniqueJobDriver(database, clock, key="{month}", on_conflict=on_conflict)
    other = Database(database.url.render_as_string(hide_password=False))  # As if on another host.
    ready, answers = threading.Barrier(8), list[str]()

    def ask(of: Database) -> None:
        wanted = Submission(job="report", parameters={"month": "may"})
        ready.wait(10)
        try:
            answers.append(submission.submit(of, clock, wanted, "ann")[0].id)
        except UniqueKeyConflict:
            answers.append("refused")

    threads = [threading.Thread(target=ask, args=(each,)) for each in (database, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    other.dispose()
    assert door.count_executions() == 1
    assert len(answers) == 8
    assert len(set(answers) - {"refused"}) == 1
    assert answers.count("refused") == (7 if on_conflict == "reject" else 0)


def test_keys_that_keep_nobody_out_are_forgotten(database: Database, clock: ManualClock) -> None:
    door = UniqueJobDriver(database, clock, key="{month}")
    ended = door.submit("may").id
    door.submit("june")
    door.set_state(ended, ExecutionState.SUCCEEDED)
    with database.write() as connection:
        assert unique_keys.delete_expired(connection, clock.now()) == 1
        assert unique_keys.delete_expired(connection, clock.now()) == 0
        assert connection.scalar(sa.select(core.unique_keys.c.key)) == "report/june"
