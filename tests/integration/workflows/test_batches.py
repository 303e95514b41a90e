"""Batches with real workers: one completion, one cancellation."""

import signal
from pathlib import Path

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.admission import Submission
from tests.integration.workflows.workflow_driver import WorkflowDriver, make_step
from tests.polling import wait_until


def _make_path(name: str) -> dict[str, str]:
    return {"$from": "batch", "path": name}


def test_on_complete_job_runs_once(driver: WorkflowDriver) -> None:
    submissions = [Submission(job="noop", parameters={"number": number}) for number in range(95)]
    submissions += [Submission(job="fail") for _ in range(5)]
    report = Submission(
        job="plain_celery_task",
        parameters={"left": _make_path("/counts/Succeeded"), "right": _make_path("/counts/Failed")},
        queue="critical",
    )
    batch, _ = driver.submit_batch(submissions, name="numbers", on_complete=report)
    status = driver.wait_until_completed(batch)
    assert status.counts == {ExecutionState.SUCCEEDED: 95, ExecutionState.FAILED: 5}
    assert status.row.completion_id
    row = driver.engine.wait_until_final(status.row.completion_id)
    assert (row.result, row.queue) == (100, "critical")
    assert len(driver.list_executions(correlation_id=batch)) == 1


def test_batch_of_1000_executions_is_cancelled_in_one_step(own_driver: WorkflowDriver, tmp_path: Path) -> None:
    engine = own_driver.engine
    engine.start()
    blocking = Submission(job="wait_for_file", parameters={"path": str(tmp_path / "never")}, priority=9)
    later = Submission(job="noop", delay=3600)
    submissions = [blocking, blocking, *(Submission(job="noop") for _ in range(698)), *([later] * 300)]
    batch, ids = own_driver.submit_batch(submissions)
    wait_until(lambda: all(engine.is_running(execution) for execution in ids[:2]), what="both slots to be taken")
    after = engine.submit_one("noop", depends_on=[{"execution": ids[-1], "on": "any"}])
    own_driver.cancel_batch(batch)
    own_driver.cancel_batch(batch)

    status = own_driver.wait_until_completed(batch)
    assert status.counts == {ExecutionState.CANCELLED: 1000}
    assert set(engine.count_starts()) <= {(ids[0], 1), (ids[1], 1), (after, 1)}
    assert engine.wait_until_final(after).state is ExecutionState.SUCCEEDED
    assert {row.cancel_requested_by for row in own_driver.list_executions(batch_id=batch)} == {"tester"}


def test_batch_cancelled_without_a_relay_never_starts(own_driver: WorkflowDriver, tmp_path: Path) -> None:
    engine, done = own_driver.engine, tmp_path / "done"
    relay, _ = engine.start()
    for execution in (
        blocking := [engine.submit_one("wait_for_file", parameters={"path": str(done)}) for _ in range(2)]
    ):
        wait_until(lambda execution=execution: engine.is_running(execution))  # type: ignore[misc]
    batch, ids = own_driver.submit_workflow(a=make_step("noop"), b=make_step("noop", "a"), c=make_step("noop", delay=1))
    wait_until(lambda: engine.get(ids["a"]).dispatched_at, what="a message in Redis")
    relay.terminate(signal.SIGKILL)
    own_driver.cancel_batch(batch)
    engine.start_relay()
    assert own_driver.wait_until_completed(batch).counts == {ExecutionState.CANCELLED: 3}
    done.touch()
    assert {engine.wait_until_final(execution).state for execution in blocking} == {ExecutionState.SUCCEEDED}
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED
    assert not {execution for execution, _ in engine.count_starts()} & set(ids.values())
