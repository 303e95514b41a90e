"""Unique keys: at most one execution holds a key, also with concurrent submissions."""

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
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.submissions.submission import Submission
from jobworker.services.submissions import submission
from jobworker.services.submissions.commit import IdempotencyKey
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, unique_keys
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, make_task

HOUR = dt.timedelta(hours=1)


class UniqueJobDriver:
    """Driver that submits executions of one unique job."""

    def __init__(self, database: Database, clock: ManualClock, **policy: Any) -> None:
        self.database = database
        self.clock = clock
        normalized, problems = policies.normalize({"unique": policy})
        assert not problems
        with database.write() as connection:
            tasks.upsert(connection, make_task("report", Parameter("month"), Parameter("note", required=False)))
            jobs.upsert(connection, JobDefinition("report", "report", policies=normalized), JobOwner.API, "ann", NOW)

    def submit(self, month: str = "may", **fields: Any) -> ExecutionRow:
        """Submit an execution."""
        request = Submission(job="report", parameters={"month": month}, **fields)
        return submission.submit(self.database, self.clock, request, "ann")[0]

    def submit_batch(self, *months: str) -> Sequence[str]:
        """Submit a batch."""
        requests = [Submission(job="report", parameters={"month": month}) for month in months]
        return submission.submit_batch(self.database, self.clock, requests, "ann").execution_ids

    def set_state(self, execution: str, state: ExecutionState, **values: Any) -> None:
        """Set the state of an execution, as a worker's report does."""
        ended = {"finished_at": NOW} if state is ExecutionState.SUCCEEDED else {}
        with self.database.write() as connection:
            mine = sa.update(core.executions).where(core.executions.c.id == execution)
            connection.execute(mine.values(state=state, **ended, **values))

    def get(self, execution: str) -> ExecutionRow:
        """Return the row of an execution."""
        with self.database.read() as connection:
            row = executions.get(connection, execution)
        assert row is not None
        return row

    def count_executions(self) -> int:
        """Return the number of executions."""
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(core.executions)) or 0


def test_second_execution_with_unique_key_is_rejected_naming_the_first(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}")
    first = driver.submit()
    with pytest.raises(UniqueKeyConflict, match=first.id):
        driver.submit()
    assert driver.submit("june").id != first.id
    assert driver.count_executions() == 2


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
def test_unique_key_is_held_until_the_configured_state(
    database: Database, clock: ManualClock, until: str, states: list[tuple[ExecutionState, bool]]
) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", until=until)
    first = driver.submit()
    for state, holds in states:
        started = state in (ExecutionState.RUNNING, ExecutionState.RETRYING)
        driver.set_state(first.id, state, **({"started_attempt": 1} if started else {}))
        if holds:
            with pytest.raises(UniqueKeyConflict):
                driver.submit()
        else:
            assert driver.submit().id != first.id


def test_unique_key_is_held_for_the_configured_time_whatever_the_state(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", **{"for": 60})
    first = driver.submit()
    driver.set_state(first.id, ExecutionState.SUCCEEDED)
    clock.advance(59)
    with pytest.raises(UniqueKeyConflict):
        driver.submit()
    clock.advance(2)
    assert driver.submit().id != first.id


def test_on_conflict_return_returns_the_first_execution(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    first = driver.submit()
    assert driver.submit().id == first.id
    assert driver.count_executions() == 1


def test_on_conflict_replace_cancels_the_first_execution_while_it_waits(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict="replace")
    scheduled = driver.submit(delay=3600)
    queued = driver.submit()
    assert driver.get(scheduled.id).state is ExecutionState.CANCELLED
    assert driver.get(scheduled.id).reason == f"replaced by execution {queued.id}"
    third = driver.submit()
    assert driver.get(queued.id).cancel_requested_by == f"execution:{third.id}"
    assert third.state is ExecutionState.QUEUED
    driver.set_state(third.id, ExecutionState.RUNNING, started_attempt=1)
    with pytest.raises(UniqueKeyConflict, match="has started"):
        driver.submit()
    assert driver.count_executions() == 3


def test_unique_job_without_key_compares_parameters(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock)
    driver.submit()
    driver.submit("june")
    with pytest.raises(UniqueKeyConflict):
        driver.submit()


def test_batch_with_one_unique_key_conflict_is_rejected_as_a_whole(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}")
    with pytest.raises(UniqueKeyConflict) as caught:
        driver.submit_batch("may", "june", "may")
    assert [problem.pointer for problem in caught.value.errors] == ["/executions/2"]
    assert driver.count_executions() == 0
    assert len(driver.submit_batch("may", "june")) == 2


def test_batch_with_on_conflict_return_reuses_the_first_execution(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    there = driver.submit("june").id
    may, june, may_again, july = driver.submit_batch("may", "june", "may", "july")
    assert (june, may_again) == (there, may)
    assert len({may, june, july}) == driver.count_executions() == 3


def test_batch_with_on_conflict_replace_replaces_the_earlier_item(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict="replace")
    there = driver.submit("may", delay=60).id
    first, second, third, june = driver.submit_batch("may", "may", "may", "june")
    assert first == second == third != june
    assert driver.get(there).state is ExecutionState.CANCELLED
    assert driver.count_executions() == 3


def test_idempotent_replay_returns_the_execution_of_the_first_response(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict="return")
    first = driver.submit()
    request = Submission(job="report", parameters={"month": "may"})
    key = IdempotencyKey("order-1", 3600)
    row, _ = submission.submit(database, clock, request, "ann", key)
    assert row.id == first.id
    driver.set_state(first.id, ExecutionState.SUCCEEDED)
    again, replayed = submission.submit(database, clock, request, "ann", key)
    assert (again.id, replayed) == (first.id, True)


@pytest.mark.parametrize("on_conflict", ["reject", "return"])
def test_concurrent_submissions_with_one_unique_key_have_one_winner(
    database: Database, clock: ManualClock, on_conflict: str
) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}", on_conflict=on_conflict)
    # A second `Database` behaves as one on another host.
    second_database = Database(database.url.render_as_string(hide_password=False))
    ready, answers = threading.Barrier(8), list[str]()

    def ask(own_database: Database) -> None:
        request = Submission(job="report", parameters={"month": "may"})
        ready.wait(10)
        try:
            answers.append(submission.submit(own_database, clock, request, "ann")[0].id)
        except UniqueKeyConflict:
            answers.append("refused")

    threads = [threading.Thread(target=ask, args=(host_database,)) for host_database in (database, second_database) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    second_database.dispose()
    assert driver.count_executions() == 1
    assert len(answers) == 8
    assert len(set(answers) - {"refused"}) == 1
    assert answers.count("refused") == (7 if on_conflict == "reject" else 0)


def test_expired_unique_keys_are_deleted(database: Database, clock: ManualClock) -> None:
    driver = UniqueJobDriver(database, clock, key="{month}")
    ended = driver.submit("may").id
    driver.submit("june")
    driver.set_state(ended, ExecutionState.SUCCEEDED)
    with database.write() as connection:
        assert unique_keys.delete_expired(connection, clock.now()) == 1
        assert unique_keys.delete_expired(connection, clock.now()) == 0
        assert connection.scalar(sa.select(core.unique_keys.c.key)) == "report/june"
