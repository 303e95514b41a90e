"""Batches and workflows: their counts, their completion, and the on-complete job, which starts exactly once."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import BatchNotFound, ExecutionNotCancellable, InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.admission import Submission
from jobworker.domain.workflows.workflow import Workflow, WorkflowStep
from jobworker.relay.dependency_resolution import DependencyResolver
from jobworker.services.submissions.commit import IdempotencyKey
from jobworker.services.workflows import batches, workflows
from jobworker.services.workflows.batches import BatchStatus
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, dispatch
from jobworker.store.executions.limit_usage import QueueBacklog
from tests.conformance.execution_driver import FAILED, ExecutionDriver
from tests.conformance.test_dependencies import UNKNOWN_ID
from tests.polling import wait_until

LOAD = Submission(job="load")
REPORT = Submission(job="report", parameters={"failed": {"$from": "batch", "path": "/counts/Failed"}, "n": 1})


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def _make_step(
    job: str = "load", needs: tuple[Any, ...] = (), on_failure: str | None = None, **fields: Any
) -> WorkflowStep:
    return WorkflowStep(Submission(job=job, **fields), needs, on_failure)


def _submit_batch(driver: ExecutionDriver, once: IdempotencyKey | None = None, **steps: WorkflowStep) -> BatchStatus:
    accepted = workflows.submit(driver.database, driver.clock, Workflow(steps), "ann", once)
    assert accepted.batch_id
    return batches.get(driver.database, accepted.batch_id)


def _list_execution_ids(status: BatchStatus) -> dict[str, str]:
    assert status.steps is not None
    return {step.row.step: step.row.execution_id for step in status.steps}


def test_batch_counts_executions_and_completes_with_its_last_one(driver: ExecutionDriver) -> None:
    batch, ids = driver.submit_batch(LOAD, LOAD, LOAD, name="imports", on_complete=REPORT)
    driver.report_end(ids[0])
    driver.report_end(ids[1], FAILED)
    status = batches.get(driver.database, batch)
    assert (status.total, status.finished, status.row.completed_at) == (3, 2, None)
    assert status.counts == {ExecutionState.SUCCEEDED: 1, ExecutionState.FAILED: 1, ExecutionState.QUEUED: 1}
    assert driver.list_executions("report") == []
    driver.report_end(ids[2])
    driver.report_end(ids[2])

    status = batches.get(driver.database, batch)
    [report] = driver.list_executions("report")
    assert (status.row.name, status.row.problem, status.row.completion_id) == ("imports", None, report.id)
    assert status.row.completed_at == driver.clock.now()
    assert report.parameters == {"failed": 1, "n": 1}
    assert (report.created_by, report.correlation_id, report.batch_id) == (f"batch:{batch}", batch, None)


def test_batch_completes_once_when_last_two_executions_end_together(driver: ExecutionDriver) -> None:
    batch, ids = driver.submit_batch(LOAD, LOAD, on_complete=REPORT)
    thread = threading.Thread(target=driver.report_end, args=[ids[1]])
    with driver.database.write() as connection:
        driver.record_report(connection, ids[0])
        thread.start()
        wait_until(lambda: driver.database.is_sqlite or _is_waiting_for_lock(driver), what="the other end to wait")
    thread.join(timeout=30)
    assert len(driver.list_executions("report")) == 1
    assert batches.get(driver.database, batch).row.completed_at


def _is_waiting_for_lock(driver: ExecutionDriver) -> bool:
    with driver.database.read() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_batch_records_problem_when_on_complete_job_cannot_start(driver: ExecutionDriver) -> None:
    batch, ids = driver.submit_batch(LOAD, on_complete=REPORT)
    driver.define_job("report", enabled=False)
    driver.report_end(ids[0])
    row = batches.get(driver.database, batch).row
    assert row.completion_id is None
    assert row.problem
    assert row.problem.startswith("the on-complete job could not be started: job report is disabled")


def test_on_complete_job_is_validated_at_submission(driver: ExecutionDriver) -> None:
    for wrong, place in (
        (Submission(job="nobody"), "/on_complete/job"),
        (Submission(job="strict"), "/on_complete/parameters/rows"),
        (Submission(job="load", parameters={"x": {"$from": "else"}}), "/on_complete/parameters/x/$from"),
    ):
        with pytest.raises(InvalidInput) as refused:
            driver.submit_batch(LOAD, on_complete=wrong)
        assert [problem.pointer for problem in refused.value.errors] == [place]
    assert driver.list_executions("load") == []


def test_workflow_runs_steps_in_order_and_passes_results(driver: ExecutionDriver) -> None:
    status = _submit_batch(
        driver,
        total=_make_step("report", ("left", "right"), parameters={
            "sum": [{"$from": "left", "path": "/n"}, {"$from": "right", "path": "/n"}],
        }),
        left=_make_step(needs=("extract",), parameters={"of": {"$from": "extract", "path": "/0"}}),
        right=_make_step(needs=("extract",), parameters={"of": {"$from": "extract", "path": "/1"}}),
        extract=_make_step("extract"),
    )  # fmt: skip
    ids = _list_execution_ids(status)
    assert status.steps is not None
    assert status.steps[0].row.step == "extract"
    assert {step.row.step: set(step.needs) for step in status.steps}["total"] == {"left", "right"}
    assert {driver.get(execution_id).correlation_id for execution_id in ids.values()} == {status.row.id}
    driver.report_end(ids["extract"], result=["a", "b"])
    assert (driver.get(ids["left"]).parameters, driver.get(ids["right"]).parameters) == ({"of": "a"}, {"of": "b"})
    driver.report_end(ids["left"], result={"n": 1})
    assert driver.get_state(ids["total"]) is ExecutionState.WAITING
    driver.report_end(ids["right"], result={"n": 2})
    assert driver.get(ids["total"]).parameters == {"sum": [1, 2]}
    driver.report_end(ids["total"])
    assert batches.get(driver.database, status.row.id).row.completed_at


def test_failed_step_skips_fails_or_continues_its_dependents(driver: ExecutionDriver) -> None:
    status = _submit_batch(
        driver,
        a=_make_step(on_failure="continue"),
        b=_make_step(on_failure="fail"),
        after_a=_make_step(needs=("a",)),
        after_b=_make_step(needs=("b",)),
        mine=_make_step(needs=({"step": "a", "otherwise": "skip"},)),
        handler=_make_step(needs=({"step": "after_b", "on": "failure"},)),
        quiet=_make_step(needs=({"step": "after_a", "on": "failure"},)),
    )
    ids = _list_execution_ids(status)
    for step in "ab":
        driver.report_end(ids[step], FAILED)
    driver.report_end(ids["after_a"])
    assert {name: driver.get_state(execution_id) for name, execution_id in ids.items() if name not in ("a", "b")} == {
        "after_a": ExecutionState.SUCCEEDED,
        "after_b": ExecutionState.FAILED,
        "mine": ExecutionState.SKIPPED,
        "handler": ExecutionState.QUEUED,
        "quiet": ExecutionState.SKIPPED,
    }
    driver.report_end(ids["handler"])
    assert batches.get(driver.database, status.row.id).row.completed_at


def test_workflow_with_invalid_steps_is_rejected_as_a_whole(driver: ExecutionDriver) -> None:
    with pytest.raises(InvalidInput) as refused:
        _submit_batch(
            driver,
            a=_make_step("nobody"),
            b=_make_step("strict", ("a",), parameters={"rows": {"$from": "c"}}),
            c=_make_step(depends_on=[7]),
        )
    assert [(problem.pointer, problem.code) for problem in refused.value.errors] == [
        ("/steps/a/job", "job_not_found"),
        ("/steps/c/depends_on/0", "wrong_type"),
        ("/steps/b/parameters/rows/$from", "unknown_source"),
    ]
    assert batches.list_page(driver.database).items == []


def test_workflow_with_idempotency_key_is_accepted_once(driver: ExecutionDriver) -> None:
    first, second = (
        _submit_batch(driver, IdempotencyKey("k", 60.0), a=_make_step(), b=_make_step(needs=("a",))) for _ in range(2)
    )
    assert first == second
    assert len(driver.list_executions("load")) == 2


def test_workflow_step_may_depend_on_execution_outside(driver: ExecutionDriver) -> None:
    outside = driver.submit("extract")
    ids = _list_execution_ids(_submit_batch(driver, a=_make_step(), b=_make_step(needs=("a",), depends_on=[outside])))
    driver.report_end(ids["a"])
    assert driver.get_state(ids["b"]) is ExecutionState.WAITING
    driver.report_end(outside)
    assert driver.get_state(ids["b"]) is ExecutionState.QUEUED


def test_cancel_batch_cancels_waiting_and_stops_running_executions(driver: ExecutionDriver) -> None:
    submissions = [LOAD, Submission(job="load", delay=3600), Submission(job="load", delay=7200)]
    batch, ids = driver.submit_batch(*submissions, on_complete=REPORT)
    bystander = driver.submit("load", delay=3600)
    after = driver.submit("load", depends_on=[{"execution": ids[1], "on": "any"}])
    for _ in range(2):
        assert batches.cancel(driver.database, driver.clock, batch, "ann").row.cancel_requested_by == "ann"
    DependencyResolver(driver.database, driver.clock).cancel_batches()

    assert [driver.get_state(execution_id) for execution_id in (*ids, bystander, after)] == [
        ExecutionState.QUEUED,
        ExecutionState.CANCELLED,
        ExecutionState.CANCELLED,
        ExecutionState.SCHEDULED,
        ExecutionState.QUEUED,
    ]
    assert driver.get(ids[0]).cancel_requested_by == "ann"
    with driver.database.read() as connection:
        assert [row.id for row in dispatch.list_ready(connection, QueueBacklog("default", ["tasks.any"]), 10)] == [
            after
        ]
        cancel_requests = cancellation.list_queued_cancel_requests(connection, 10)
    driver.report_end(ids[0], FAILED)
    row = batches.get(driver.database, batch).row
    assert [request.id for request in cancel_requests] == [ids[0]]
    assert (row.completed_at, row.completion_id) == (driver.clock.now(), None)
    assert row.problem == "the on-complete job was not started, because the batch was cancelled"


def test_cancelled_batches_take_one_transaction_and_then_none(
    driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [driver.submit_batch(Submission(job="load"), Submission(job="load")) for _ in range(5)]
    for batch_id, _ in running:
        batches.cancel(driver.database, driver.clock, batch_id, "ann")
    transactions: list[object] = []
    write = driver.database.write

    def counted() -> AbstractContextManager[sa.Connection]:
        transactions.append(None)
        return write()

    monkeypatch.setattr(driver.database, "write", counted)
    releases = DependencyResolver(driver.database, driver.clock)
    releases.cancel_batches()
    assert len(transactions) == 1
    assert {
        driver.get(execution_id).cancel_requested_by for _, executions in running for execution_id in executions
    } == {"ann"}
    releases.cancel_batches()
    assert len(transactions) == 1, "everything is asked to stop: nothing is left to write"


def test_cancel_batch_rejects_completed_and_unknown_batch(driver: ExecutionDriver) -> None:
    batch, ids = driver.submit_batch(LOAD)
    driver.report_end(ids[0])
    with pytest.raises(ExecutionNotCancellable, match="has ended already"):
        batches.cancel(driver.database, driver.clock, batch, "ann")
    for wrong in (UNKNOWN_ID, "x"):
        with pytest.raises(BatchNotFound):
            batches.cancel(driver.database, driver.clock, wrong, "ann")


def test_batches_are_listed_newest_first(driver: ExecutionDriver) -> None:
    batch_ids = [driver.submit_batch(LOAD, name=str(number))[0] for number in range(3)]
    first = batches.list_page(driver.database, limit=2)
    second = batches.list_page(driver.database, limit=2, cursor=first.next)
    assert [batch.row.id for batch in (*first.items, *second.items)] == batch_ids[::-1]
    assert [batch.total for batch in first.items] == [1, 1]
