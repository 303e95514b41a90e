"""Batches and workflows: how they stand, when they are complete, and what follows; exactly once."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.admission import Submission
from jobworker.domain.errors import BatchNotFound, InvalidInput, NotCancellable
from jobworker.domain.execution import State
from jobworker.domain.workflow import Step, Workflow
from jobworker.relay.release import Releases
from jobworker.services import batches, workflows
from jobworker.services.accepting import Once
from jobworker.services.batches import BatchStatus
from jobworker.store import dispatch, stopping
from jobworker.store.database import Database
from jobworker.store.limits import Backlog
from tests.conformance.household import FAILED, Household
from tests.conformance.test_dependencies import NOBODY
from tests.waiting import until

LOAD = Submission(job="load")
REPORT = Submission(job="report", parameters={"failed": {"$from": "batch", "path": "/counts/Failed"}, "n": 1})


@pytest.fixture
def house(database: Database) -> Household:
    return Household(database)


def _step(job: str = "load", needs: tuple[Any, ...] = (), on_failure: str | None = None, **fields: Any) -> Step:
    return Step(Submission(job=job, **fields), needs, on_failure)


def _submit(house: Household, once: Once | None = None, **steps: Step) -> BatchStatus:
    accepted = workflows.submit(house.database, house.clock, Workflow(steps), "ann", once)
    assert accepted.batch_id
    return batches.get(house.database, accepted.batch_id)


def _ids(status: BatchStatus) -> dict[str, str]:
    assert status.steps is not None
    return {each.row.step: each.row.execution_id for each in status.steps}


def test_a_batch_counts_and_completes_with_its_last_execution(house: Household) -> None:
    batch, ids = house.submit_batch(LOAD, LOAD, LOAD, name="imports", on_complete=REPORT)
    house.report_end(ids[0])
    house.report_end(ids[1], FAILED)
    status = batches.get(house.database, batch)
    assert (status.total, status.finished, status.row.completed_at) == (3, 2, None)
    assert status.counts == {State.SUCCEEDED: 1, State.FAILED: 1, State.QUEUED: 1}
    assert house.list_executions("report") == []
    house.report_end(ids[2])
    house.report_end(ids[2])

    status = batches.get(house.database, batch)
    [report] = house.list_executions("report")
    assert (status.row.name, status.row.problem, status.row.completion_id) == ("imports", None, report.id)
    assert status.row.completed_at == house.clock.now()
    assert report.parameters == {"failed": 1, "n": 1}
    assert (report.created_by, report.correlation_id, report.batch_id) == (f"batch:{batch}", batch, None)


def test_two_last_executions_that_end_at_the_same_moment_complete_the_batch_once(house: Household) -> None:
    batch, ids = house.submit_batch(LOAD, LOAD, on_complete=REPORT)
    other = threading.Thread(target=house.report_end, args=[ids[1]])
    with house.database.write() as connection:
        house.record_report(connection, ids[0])
        other.start()
        until(lambda: house.database.is_sqlite or _waits_for_a_lock(house), what="the other end to wait")
    other.join(timeout=30)
    assert len(house.list_executions("report")) == 1
    assert batches.get(house.database, batch).row.completed_at


def _waits_for_a_lock(house: Household) -> bool:
    with house.database.read() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_an_on_complete_job_that_cannot_start_leaves_a_reason(house: Household) -> None:
    batch, ids = house.submit_batch(LOAD, on_complete=REPORT)
    house.define_job("report", enabled=False)
    house.report_end(ids[0])
    row = batches.get(house.database, batch).row
    assert row.completion_id is None
    assert row.problem
    assert row.problem.startswith("the on-complete job could not be started: job report is disabled")


def test_an_on_complete_job_is_checked_when_the_batch_is_accepted(house: Household) -> None:
    for wrong, place in (
        (Submission(job="nobody"), "/on_complete/job"),
        (Submission(job="strict"), "/on_complete/parameters/rows"),
        (Submission(job="load", parameters={"x": {"$from": "else"}}), "/on_complete/parameters/x/$from"),
    ):
        with pytest.raises(InvalidInput) as refused:
            house.submit_batch(LOAD, on_complete=wrong)
        assert [each.pointer for each in refused.value.errors] == [place]
    assert house.list_executions("load") == []


def test_a_workflow_runs_its_steps_in_order_and_passes_results(house: Household) -> None:
    given = _submit(
        house,
        total=_step("report", ("left", "right"), parameters={
            "sum": [{"$from": "left", "path": "/n"}, {"$from": "right", "path": "/n"}],
        }),
        left=_step(needs=("extract",), parameters={"of": {"$from": "extract", "path": "/0"}}),
        right=_step(needs=("extract",), parameters={"of": {"$from": "extract", "path": "/1"}}),
        extract=_step("extract"),
    )  # fmt: skip
    ids = _ids(given)
    assert given.steps is not None
    assert given.steps[0].row.step == "extract"
    assert {each.row.step: set(each.needs) for each in given.steps}["total"] == {"left", "right"}
    assert {house.get(each).correlation_id for each in ids.values()} == {given.row.id}
    house.report_end(ids["extract"], result=["a", "b"])
    assert (house.get(ids["left"]).parameters, house.get(ids["right"]).parameters) == ({"of": "a"}, {"of": "b"})
    house.report_end(ids["left"], result={"n": 1})
    assert house.get_state(ids["total"]) is State.WAITING
    house.report_end(ids["right"], result={"n": 2})
    assert house.get(ids["total"]).parameters == {"sum": [1, 2]}
    house.report_end(ids["total"])
    assert batches.get(house.database, given.row.id).row.completed_at


def test_what_becomes_of_steps_behind_a_failure(house: Household) -> None:
    given = _submit(
        house,
        a=_step(on_failure="continue"),
        b=_step(on_failure="fail"),
        after_a=_step(needs=("a",)),
        after_b=_step(needs=("b",)),
        mine=_step(needs=({"step": "a", "otherwise": "skip"},)),
        handler=_step(needs=({"step": "after_b", "on": "failure"},)),
        quiet=_step(needs=({"step": "after_a", "on": "failure"},)),
    )
    ids = _ids(given)
    for each in "ab":
        house.report_end(ids[each], FAILED)
    house.report_end(ids["after_a"])
    assert {name: house.get_state(each) for name, each in ids.items() if name not in ("a", "b")} == {
        "after_a": State.SUCCEEDED, "after_b": State.FAILED, "mine": State.SKIPPED, "handler": State.QUEUED,
        "quiet": State.SKIPPED,
    }  # fmt: skip
    house.report_end(ids["handler"])
    assert batches.get(house.database, given.row.id).row.completed_at


def test_a_workflow_with_wrong_steps_is_refused_as_a_whole(house: Household) -> None:
    with pytest.raises(InvalidInput) as refused:
        _submit(
            house,
            a=_step("nobody"),
            b=_step("strict", ("a",), parameters={"rows": {"$from": "c"}}),
            c=_step(depends_on=[7]),
        )
    assert [(each.pointer, each.code) for each in refused.value.errors] == [
        ("/steps/a/job", "job_not_found"),
        ("/steps/c/depends_on/0", "wrong_type"),
        ("/steps/b/parameters/rows/$from", "unknown_source"),
    ]
    assert batches.page(house.database).items == []


def test_a_workflow_with_an_idempotency_key_is_accepted_once(house: Household) -> None:
    first, second = (_submit(house, Once("k", 60.0), a=_step(), b=_step(needs=("a",))) for _ in range(2))
    assert first == second
    assert len(house.list_executions("load")) == 2


def test_a_step_may_depend_on_what_is_outside(house: Household) -> None:
    outside = house.submit("extract")
    ids = _ids(_submit(house, a=_step(), b=_step(needs=("a",), depends_on=[outside])))
    house.report_end(ids["a"])
    assert house.get_state(ids["b"]) is State.WAITING
    house.report_end(outside)
    assert house.get_state(ids["b"]) is State.QUEUED


def test_cancelling_a_batch_ends_what_waits_and_stops_the_rest(house: Household) -> None:
    wanted = [LOAD, Submission(job="load", delay=3600), Submission(job="load", delay=7200)]
    batch, ids = house.submit_batch(*wanted, on_complete=REPORT)
    bystander = house.submit("load", delay=3600)
    after = house.submit("load", depends_on=[{"execution": ids[1], "on": "any"}])
    for _ in range(2):
        assert batches.cancel(house.database, house.clock, batch, "ann").row.cancel_requested_by == "ann"
    Releases(house.database, house.clock).cancel_batches()

    assert [house.get_state(each) for each in (*ids, bystander, after)] == [
        State.QUEUED, State.CANCELLED, State.CANCELLED, State.SCHEDULED, State.QUEUED,
    ]  # fmt: skip
    assert house.get(ids[0]).cancel_requested_by == "ann"
    with house.database.read() as connection:
        assert [row.id for row in dispatch.ready(connection, Backlog("default", ["tasks.any"]), 10)] == [after]
        asked = stopping.cancel_asked(connection, 10)
    house.report_end(ids[0], FAILED)
    row = batches.get(house.database, batch).row
    assert [each.id for each in asked] == [ids[0]]
    assert (row.completed_at, row.completion_id) == (house.clock.now(), None)
    assert row.problem == "the on-complete job was not started, because the batch was cancelled"


def test_many_cancelled_batches_take_one_transaction_and_none_when_all_is_asked(
    house: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [house.submit_batch(Submission(job="load"), Submission(job="load")) for _ in range(5)]
    for batch_id, _ in running:
        batches.cancel(house.database, house.clock, batch_id, "ann")
    transactions: list[object] = []
    write = house.database.write

    def counted() -> AbstractContextManager[sa.Connection]:
        transactions.append(None)
        return write()

    monkeypatch.setattr(house.database, "write", counted)
    releases = Releases(house.database, house.clock)
    releases.cancel_batches()
    assert len(transactions) == 1
    assert {house.get(each).cancel_requested_by for _, executions in running for each in executions} == {"ann"}
    releases.cancel_batches()
    assert len(transactions) == 1, "everything is asked to stop: nothing is left to write"


def test_a_batch_that_is_complete_or_not_there_cannot_be_cancelled(house: Household) -> None:
    batch, ids = house.submit_batch(LOAD)
    house.report_end(ids[0])
    with pytest.raises(NotCancellable, match="has ended already"):
        batches.cancel(house.database, house.clock, batch, "ann")
    for wrong in (NOBODY, "x"):
        with pytest.raises(BatchNotFound):
            batches.cancel(house.database, house.clock, wrong, "ann")


def test_batches_are_listed_newest_first(house: Household) -> None:
    made = [house.submit_batch(LOAD, name=str(number))[0] for number in range(3)]
    first = batches.page(house.database, limit=2)
    second = batches.page(house.database, limit=2, cursor=first.next)
    assert [each.row.id for each in (*first.items, *second.items)] == made[::-1]
    assert [each.total for each in first.items] == [1, 1]
