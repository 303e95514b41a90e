"""Dependents: they are released or ended in the transaction that ends their parents."""

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidDependency
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.workflows.dependency import ParentExecution
from jobworker.relay.dependency_resolution import DependencyResolver
from jobworker.services.executions import blocker_report
from jobworker.services.submissions import preparation
from jobworker.services.workflows import resolution
from jobworker.store.database.database import Database
from jobworker.store.tables import core
from jobworker.store.workflows import dependency_rows
from tests.conformance.execution_driver import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT, ExecutionDriver
from tests.conformance.factories import NOW
from tests.polling import wait_until

UNKNOWN_ID = "01980000-0000-7000-8000-000000000000"


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def test_dependent_waits_for_its_last_parent(driver: ExecutionDriver) -> None:
    parents = [driver.submit("extract") for _ in range(3)]
    child = driver.submit("load", depends_on=parents)
    assert (driver.get_state(child), driver.get(child).waiting_for) == (ExecutionState.WAITING, 3)
    for remaining, parent in ((2, parents[1]), (1, parents[0])):
        driver.report_end(parent)
        assert (driver.get_state(child), driver.get(child).waiting_for) == (ExecutionState.WAITING, remaining)
    driver.clock.advance(90)
    driver.report_end(parents[2])

    row = driver.get(child)
    assert (row.state, row.waiting_for, row.due_at) == (ExecutionState.QUEUED, 0, NOW + dt.timedelta(seconds=90))
    assert driver.list_states(child) == ["Waiting", "Queued"]


def test_dependent_with_later_due_time_is_scheduled_on_release(driver: ExecutionDriver) -> None:
    parent = driver.submit("extract")
    due_at = NOW + dt.timedelta(hours=1)
    child = driver.submit("load", depends_on=[parent], due_at=due_at)
    driver.report_end(parent)
    assert (driver.get_state(child), driver.get(child).due_at) == (ExecutionState.SCHEDULED, due_at)


def test_relative_deadline_counts_from_release_and_absolute_one_is_kept(driver: ExecutionDriver) -> None:
    parent = driver.submit("extract")
    moment = NOW + dt.timedelta(hours=2)
    relative = driver.submit("load", depends_on=[parent], expires=60.0)
    absolute = driver.submit("load", depends_on=[parent], expires_at=moment)
    assert driver.get(relative).expires_at is None
    driver.clock.advance(3600)
    driver.report_end(parent)
    assert driver.get(relative).expires_at == NOW + dt.timedelta(seconds=3660)
    assert driver.get(absolute).expires_at == moment


@pytest.mark.parametrize(
    ("kind", "on", "goes_on"),
    [
        (SUCCEEDED, "success", True), (SUCCEEDED, "failure", False), (SUCCEEDED, "any", True),
        (FAILED, "success", False), (FAILED, "failure", True), (FAILED, "any", True),
        (TIMED_OUT, "success", False), (TIMED_OUT, "failure", True), (TIMED_OUT, "any", True),
        (CANCELLED, "success", False), (CANCELLED, "failure", False), (CANCELLED, "any", True),
    ],
)  # fmt: skip
def test_parent_end_releases_or_skips_dependent(driver: ExecutionDriver, kind: Any, on: str, goes_on: bool) -> None:
    parent = driver.submit("extract")
    child = driver.submit("load", depends_on=[{"execution": parent, "on": on}])
    driver.report_end(parent, kind)
    assert driver.get_state(child) is (ExecutionState.QUEUED if goes_on else ExecutionState.SKIPPED)


def test_parent_failure_skips_fails_or_releases_dependents(driver: ExecutionDriver) -> None:
    parent = driver.submit("extract")
    skipped, failed, going_on = (
        driver.submit("load", depends_on=[{"execution": parent, "otherwise": word}])
        for word in ("skip", "fail", "continue")
    )
    after = driver.submit("report", depends_on=[{"execution": failed, "on": "failure"}])
    driver.report_end(parent, FAILED)

    assert [driver.get_state(execution_id) for execution_id in (skipped, failed, going_on, after)] == [
        ExecutionState.SKIPPED, ExecutionState.FAILED, ExecutionState.QUEUED, ExecutionState.QUEUED,
    ]  # fmt: skip
    why = f"it depends on {parent} (job extract), which ended Failed"
    assert driver.get(skipped).reason == driver.get(failed).reason == why
    error = driver.get(failed).error
    assert error
    assert (error["type"], error["message"]) == ("DependencyFailed", why)


def test_chain_is_skipped_to_its_end_and_second_end_changes_nothing(driver: ExecutionDriver) -> None:
    chain = [driver.submit("extract")]
    for _ in range(10):
        chain.append(driver.submit("load", depends_on=[chain[-1]]))
    driver.report_end(chain[0], FAILED)
    assert {driver.get_state(execution_id) for execution_id in chain[1:]} == {ExecutionState.SKIPPED}
    rows = [driver.get(execution_id) for execution_id in chain]
    driver.report_end(chain[0], SUCCEEDED)
    assert [driver.get(execution_id) for execution_id in chain] == rows


def test_chain_too_long_for_one_transaction_is_finished_by_the_sweep(
    driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "_MAX_WAVES", 3)
    monkeypatch.setattr(resolution, "_WAVE_SIZE", 2)
    chain = [driver.submit("extract")]
    for _ in range(10):
        chain.append(driver.submit("load", depends_on=[chain[-1]]))
    wide = [driver.submit("load", depends_on=[chain[-1]]) for _ in range(9)]
    driver.report_end(chain[0], FAILED)
    assert driver.get_state(chain[3]) is ExecutionState.SKIPPED
    assert driver.get_state(chain[4]) is ExecutionState.WAITING
    sweeper = DependencyResolver(driver.database, driver.clock)
    sweeper.resolve_missed()
    _resolve_remaining(driver, sweeper)
    assert {driver.get_state(execution_id) for execution_id in (*chain[1:], *wide)} == {ExecutionState.SKIPPED}


def _resolve_remaining(driver: ExecutionDriver, releases: DependencyResolver) -> int:
    """Let the relay resolve the remaining dependents; return the number of transactions."""
    count = 0
    while releases.has_pending:
        with driver.database.write() as connection:
            released = releases.resolve_dependents(connection, (), driver.clock.now())
        releases.mark_committed(released)
        count += 1
    return count


def test_cancel_skips_dependents(driver: ExecutionDriver) -> None:
    first = driver.submit("extract", delay=3600)
    second = driver.submit("load", depends_on=[first])
    third = driver.submit("report", depends_on=[second])
    assert driver.cancel(second).state is ExecutionState.CANCELLED
    assert driver.get_state(third) is ExecutionState.SKIPPED
    driver.cancel(first)
    assert driver.list_states(second) == ["Waiting", "Cancelled"]


def test_dependency_on_ended_parent_is_resolved_at_submission(driver: ExecutionDriver) -> None:
    done, failed = driver.submit("extract"), driver.submit("extract")
    driver.report_end(done, result={"rows": [7]})
    driver.report_end(failed, FAILED)
    lucky = driver.submit(
        "load", depends_on=[done, {"execution": failed, "otherwise": "continue"}],
        parameters={"row": {"$from": done, "path": "/rows/0"}},
    )  # fmt: skip
    assert driver.get_state(lucky) is ExecutionState.QUEUED
    assert driver.get(lucky).parameters == {"row": 7}

    with pytest.raises(InvalidDependency) as refused:
        driver.submit("load", depends_on=[done, failed, UNKNOWN_ID])
    assert [(problem.pointer, problem.code) for problem in refused.value.errors] == [
        ("/depends_on/1", "dependency_failed"),
        ("/depends_on/2", "dependency_not_found"),
    ]
    assert len(driver.list_executions("load")) == 1


def test_parent_results_become_parameters(driver: ExecutionDriver) -> None:
    parent = driver.submit("extract")
    good, gone, saved, wrong = (
        driver.submit(job, depends_on=[parent], parameters=parameters)
        for job, parameters in (
            ("load", {"all": {"$from": parent}, "deep": [{"one": {"$from": parent, "path": "/a~1b/1"}}]}),
            ("load", {"x": {"$from": parent, "path": "/nothing"}}),
            ("load", {"x": {"$from": parent, "path": "/nothing", "default": 3}}),
            ("strict", {"rows": {"$from": parent, "path": "/a~1b"}}),
        )
    )
    after = driver.submit("report", depends_on=[{"execution": gone, "on": "failure"}])
    driver.report_end(parent, result={"a/b": [1, 2]})

    assert driver.get(good).parameters == {"all": {"a/b": [1, 2]}, "deep": [{"one": 2}]}
    assert driver.get(saved).parameters == {"x": 3}
    assert (driver.get_state(gone), driver.get_state(wrong), driver.get_state(after)) == (
        ExecutionState.FAILED,
        ExecutionState.FAILED,
        ExecutionState.QUEUED,
    )
    assert driver.get(gone).reason == f"the result of {parent} has nothing at /nothing"
    assert driver.get(wrong).reason == "rows must be of type integer, not array"


def test_referenced_results_are_measured_before_they_are_inserted(
    driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = driver.submit("extract")
    many = {"rows": [{"$from": parent}] * 1000}
    child = driver.submit("load", depends_on=[parent], parameters=many)
    few = driver.submit("load", depends_on=[parent], parameters={"rows": [{"$from": parent}] * 6})
    monkeypatch.setattr(preparation, "check_parameters", checked := Mock(wraps=preparation.check_parameters))
    driver.report_end(parent, result="x" * 10_000)
    row = driver.get(child)
    assert (row.state, row.error and row.error["type"]) == (ExecutionState.FAILED, "InvalidParameters")
    assert row.reason == "the parameters have more than 65536 bytes as JSON, which is the most that is allowed"
    assert row.parameters == many
    assert driver.get_state(few) is ExecutionState.QUEUED
    assert [len(call.args[1]["rows"]) for call in checked.call_args_list] == [6]


@pytest.mark.parametrize("large_part", ["parameters", "results"])
def test_resolution_reads_bounded_bytes_per_transaction(
    driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch, large_part: str
) -> None:
    monkeypatch.setattr(resolution, "_MAX_BYTES", 100_000)
    monkeypatch.setattr(resolution, "_LOCK_BATCH_SIZE", 1)
    monkeypatch.setattr(resolution, "_RESULT_BATCH_SIZE", 1)
    text = "x" * 30_000
    parents = [driver.submit("extract") for _ in range(10)]
    parameter_sets = [
        {"rows": text} if large_part == "parameters" else {"n": {"$from": parent, "path": "/n"}} for parent in parents
    ]
    pairs = zip(parents, parameter_sets, strict=True)
    children = [driver.submit("load", depends_on=[parent], parameters=parameters) for parent, parameters in pairs]
    ended = [ParentExecution(parent, "extract", ExecutionState.SUCCEEDED, None, "c") for parent in parents]
    with driver.database.write() as connection:
        values = {"state": "Succeeded", "finished_at": NOW, "result": {"n": 1, "text": text}}
        table = core.executions
        connection.execute(sa.update(table).where(table.c.id.in_(parents)).values(**values))
        released = resolution.resolve_dependents(connection, ended, NOW)
    assert (released.released_count, bool(released.unfinished)) == (4, True)
    releases = DependencyResolver(driver.database, driver.clock)
    releases.mark_committed(released)
    assert _resolve_remaining(driver, releases) == 2
    assert {driver.get_state(child) for child in children} == {ExecutionState.QUEUED}
    assert {driver.get(child).waiting_for for child in children} == {0}


def test_dependencies_of_execution_are_listed(driver: ExecutionDriver) -> None:
    parents = sorted(driver.submit("extract") for _ in range(3))
    child = driver.submit("load", depends_on=parents)
    driver.report_end(parents[0])
    with driver.database.read() as connection:
        first = dependency_rows.list_parents(connection, child, limit=2)
        second = dependency_rows.list_parents(connection, child, limit=2, cursor=first.next)
    reasons = blocker_report.explain_execution(driver.database, driver.clock, child).blockers
    assert [blocker.details["execution"] for blocker in reasons if blocker.code == "dependency"] == parents[1:]
    rows = [*first.items, *second.items]
    assert [row.execution_id for row in rows] == parents
    assert [(row.state, row.outcome) for row in rows] == [
        (ExecutionState.SUCCEEDED, "met"), (ExecutionState.QUEUED, None), (ExecutionState.QUEUED, None),
    ]  # fmt: skip
    assert second.next is None


@pytest.mark.parametrize("first", ["end", "child"])
def test_dependent_submitted_while_parent_ends_is_released(driver: ExecutionDriver, first: str) -> None:
    """The second transaction waits for the first one in either order, and no dependent stays unresolved."""
    parent, children = driver.submit("extract"), list[str]()

    def end() -> None:
        driver.report_end(parent)

    def accept() -> None:
        children.append(driver.submit("load", depends_on=[parent]))

    first_change, second_change = (end, accept) if first == "end" else (accept, end)
    _run_during_transaction(driver, first_change, second_change)
    assert driver.get_state(children[0]) is ExecutionState.QUEUED


def _run_during_transaction(driver: ExecutionDriver, first: Callable[[], None], second: Callable[[], None]) -> None:
    """Run `second` after the transaction of `first` has written all its rows and before the commit."""
    thread = threading.Thread(target=second)
    started = threading.Event()
    engine = driver.database._writer

    def before_commit(_connection: sa.Connection) -> None:
        if threading.current_thread() is not thread and not started.is_set():
            started.set()
            thread.start()
            wait_until(lambda: not thread.is_alive() or _is_blocked(driver), what="the other transaction to wait")

    sa.event.listen(engine, "commit", before_commit)
    try:
        first()
    finally:
        sa.event.remove(engine, "commit", before_commit)
    thread.join(timeout=30)
    assert started.is_set()
    assert not thread.is_alive()


def _is_blocked(driver: ExecutionDriver) -> bool:
    if driver.database.is_sqlite:
        return True  # SQLite has one writer at a time, so waiting cannot be observed.
    with driver.database.read() as connection:
        waiting = connection.scalar(
            sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()")
        )
    return bool(waiting)


def test_unresolved_dependent_is_resolved_by_the_sweep(driver: ExecutionDriver) -> None:
    parent = driver.submit("extract")
    child = driver.submit("load", depends_on=[parent])
    with driver.database.write() as connection:
        table = core.executions
        connection.execute(sa.update(table).where(table.c.id == parent).values(state="Succeeded", finished_at=NOW))
    assert driver.get_state(child) is ExecutionState.WAITING
    DependencyResolver(driver.database, driver.clock).resolve_missed()
    assert driver.get_state(child) is ExecutionState.QUEUED


def test_unique_key_that_depends_on_a_result_is_acquired_on_release(driver: ExecutionDriver) -> None:
    for name, conflict in (("load", "return"), ("report", "replace")):
        driver.define_job(
            name, policies={"unique": {"key": "{n}", "until": "finished", "for": None, "on_conflict": conflict}}
        )
    parent = driver.submit("extract")
    fields = {"parameters": {"n": {"$from": parent}}, "depends_on": [parent]}
    loads, reports = (
        [driver.submit("load", **fields) for _ in range(2)],
        [driver.submit("report", **fields) for _ in range(2)],
    )
    driver.report_end(parent, result=7)
    first, second = sorted(loads)
    assert [driver.get_state(load) for load in (first, second)] == [ExecutionState.QUEUED, ExecutionState.SKIPPED]
    assert driver.get(second).reason == f"execution {first} has the unique key load/7"
    assert [driver.get_state(report) for report in sorted(reports)] == [
        ExecutionState.CANCELLED,
        ExecutionState.QUEUED,
    ]


def test_dependents_of_replaced_execution_are_skipped(driver: ExecutionDriver) -> None:
    driver.define_job(
        "load", policies={"unique": {"key": "k", "until": "finished", "for": None, "on_conflict": "replace"}}
    )
    first = driver.submit("load", delay=60)
    child = driver.submit("report", depends_on=[first])
    driver.submit("load")
    assert (driver.get_state(first), driver.get_state(child)) == (ExecutionState.CANCELLED, ExecutionState.SKIPPED)
