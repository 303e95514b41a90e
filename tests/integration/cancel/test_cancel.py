"""Cancellation of running jobs on real workers: by the job itself, by SIGTERM, by SIGKILL; no process is left."""

import pytest

from jobworker.domain.executions.execution import AttemptState, ExecutionState
from jobworker.services.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from tests.child_processes import filter_alive, get_attempt_pid, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until

#: Guaranteed maximum time from the request to Cancelled (s).
_MAX_CANCEL_SECONDS = 10.0


@pytest.fixture(scope="module")
def prefork(persistent_engine: Engine) -> Engine:
    """Engine with a relay and a worker with two processes."""
    persistent_engine.start_relay()
    persistent_engine.start_worker()
    persistent_engine.wait_until_ready("ignore_termination")
    return persistent_engine


def _submit_and_wait_until_running(engine: Engine, job: str, **fields: object) -> str:
    execution = engine.submit_one(job, **fields)
    wait_until(
        lambda: engine.get(execution).state is ExecutionState.RUNNING and engine.is_running(execution),
        what=f"{job} to run",
    )
    return execution


def _wait_until_cancelled(engine: Engine, execution: str, reason: str) -> ExecutionRow:
    """Wait for the cancellation within the guaranteed time; check its actor and reason."""
    row = engine.wait_until_final(execution)
    assert (row.state, row.reason) == (ExecutionState.CANCELLED, reason)
    assert row.finished_at is not None
    assert row.cancel_requested_at is not None
    assert (row.finished_at - row.cancel_requested_at).total_seconds() <= _MAX_CANCEL_SECONDS
    last = executions.list_transitions(engine.database, execution).items[-1]
    assert (last.state, last.actor, last.reason) == (ExecutionState.CANCELLED, "tester", reason)
    [attempt] = executions.list_attempts(engine.database, execution).items
    assert attempt.state is AttemptState.CANCELLED
    return row


def test_job_that_checks_for_cancellation_stops_by_itself(prefork: Engine) -> None:
    engine = prefork
    raising, saying = (
        _submit_and_wait_until_running(engine, "raise_if_job_cancelled"),
        _submit_and_wait_until_running(engine, "raise_if_job_cancelled", parameters={"in_its_own_words": True}),
    )
    for execution in (raising, saying):
        row = engine.cancel(execution)
        assert (row.state, row.cancel_requested_by) == (ExecutionState.RUNNING, "tester")
    _wait_until_cancelled(engine, raising, "the job stopped by itself")
    _wait_until_cancelled(engine, saying, "put everything back")


def test_job_that_ignores_cancellation_is_ended_by_sigterm(prefork: Engine) -> None:
    engine = prefork
    execution = _submit_and_wait_until_running(engine, "ignore_termination", parameters={"ignore_signals": False})
    started = [get_attempt_pid(engine, execution), *list_started_pids(engine, execution)]
    engine.cancel(execution)
    _wait_until_cancelled(engine, execution, "it did not stop by itself and was ended by SIGTERM")
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")


def test_job_that_ignores_sigterm_is_killed_with_its_processes(prefork: Engine) -> None:
    engine = prefork
    execution = _submit_and_wait_until_running(engine, "ignore_termination")
    started = [get_attempt_pid(engine, execution), *list_started_pids(engine, execution)]
    assert len(filter_alive(started)) == 4
    engine.cancel(execution)
    _wait_until_cancelled(engine, execution, "it did not stop by itself and was ended by SIGKILL")
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED


def test_job_that_finishes_despite_cancellation_succeeds(prefork: Engine) -> None:
    engine = prefork
    execution = _submit_and_wait_until_running(engine, "finish_when_cancelled")
    engine.cancel(execution)
    row = engine.wait_until_final(execution)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "what there was")


def test_cancellation_does_not_reach_other_jobs_of_the_process(prefork: Engine, tmp_path: object) -> None:
    engine = prefork
    gate = engine.folder / "gate"
    held = [_submit_and_wait_until_running(engine, "finish_when_cancelled") for _ in range(2)]
    for execution in held:
        engine.cancel(execution)
    after = [engine.submit_one("poll_cancellation", parameters={"path": str(gate)}) for _ in range(2)]
    wait_until(lambda: all(engine.is_running(execution) for execution in after))
    gate.touch()
    assert [engine.wait_until_final(execution).result for execution in after] == [False, False]


def test_job_that_raises_job_cancelled_itself_is_cancelled(prefork: Engine) -> None:
    engine = prefork
    row = engine.wait_until_final(engine.submit_one("raise_cancelled_without_request"))
    assert (row.state, row.reason) == (ExecutionState.CANCELLED, "the job stopped by itself")
    last = executions.list_transitions(engine.database, row.id).items[-1]
    assert last.actor == f"worker:{row.worker}"


def test_job_with_time_limits_is_cancelled_before_they_pass(prefork: Engine) -> None:
    engine = prefork
    execution = _submit_and_wait_until_running(engine, "ignore_termination", soft_time_limit=50, time_limit=60)
    engine.cancel(execution)
    _wait_until_cancelled(engine, execution, "it did not stop by itself and was ended by SIGKILL")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_job_in_a_pool_without_processes_must_check_for_cancellation(engine: Engine, pool: str) -> None:
    engine.start_relay()
    engine.start_worker("--pool", pool, "-c", "2")
    engine.wait_until_ready()
    minds = _submit_and_wait_until_running(engine, "raise_if_job_cancelled")
    engine.cancel(minds)
    _wait_until_cancelled(engine, minds, "the job stopped by itself")
    gate = engine.folder / "gate"
    runs_on = _submit_and_wait_until_running(engine, "wait_for_file", parameters={"path": str(gate)})
    assert engine.cancel(runs_on).cancel_requested_by == "tester"
    looks = _submit_and_wait_until_running(engine, "raise_if_job_cancelled") if pool == "threads" else None
    if looks:
        engine.cancel(looks)
        _wait_until_cancelled(engine, looks, "the job stopped by itself")
    row = engine.get(runs_on)
    assert (row.state, row.cancel_requested_by) == (ExecutionState.RUNNING, "tester")
    gate.touch()
    assert engine.wait_until_final(runs_on).state is ExecutionState.SUCCEEDED
