"""Cancel requests survive every process and Redis, and concurrent ends leave no execution in between."""

import contextlib
import signal
from collections import Counter

from jobworker.domain.errors import ExecutionNotCancellable
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.services.executions import executions
from tests.child_processes import filter_alive, get_attempt_pid, kill_processes, list_descendants, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer


def _submit_and_wait_until_running(engine: Engine, job: str, **parameters: object) -> str:
    execution = engine.submit_one(job, parameters=parameters)
    wait_until(
        lambda: engine.get(execution).state is ExecutionState.RUNNING and engine.is_running(execution),
        what=f"{job} to run",
    )
    return execution


def _get_cancel_requester(engine: Engine, execution: str) -> str:
    return executions.list_transitions(engine.database, execution).items[-1].actor


def test_cancel_request_survives_loss_of_relay_and_redis(engine: Engine, own_server: RedisServer) -> None:
    relay, _ = engine.start()
    engine.wait_until_ready("ignore_termination")
    execution = _submit_and_wait_until_running(engine, "raise_if_job_cancelled")
    other_execution = _submit_and_wait_until_running(engine, "ignore_termination", ignore_signals=False)
    relay.terminate(signal.SIGKILL)
    own_server.freeze()
    engine.cancel(execution)
    engine.cancel(other_execution)
    own_server.thaw()
    assert {engine.get(execution_id).state for execution_id in (execution, other_execution)} == {ExecutionState.RUNNING}
    engine.start_relay()
    assert [engine.wait_until_final(execution_id).state for execution_id in (execution, other_execution)] == [
        ExecutionState.CANCELLED
    ] * 2
    assert (_get_cancel_requester(engine, execution), _get_cancel_requester(engine, other_execution)) == (
        "tester",
        "tester",
    )


def test_stop_request_lost_by_redis_is_repeated(engine: Engine, own_server: RedisServer) -> None:
    engine.start()
    engine.wait_until_ready("ignore_termination")
    execution = _submit_and_wait_until_running(engine, "wait_for_file", path=str(engine.folder / "never"))
    # While the worker is frozen, the stop request is sent, and lost with all data of Redis.
    pid = get_attempt_pid(engine, execution)
    engine.cancel(execution)
    own_server.create_client().flushall()
    row = engine.wait_until_final(execution)
    assert (row.state, _get_cancel_requester(engine, execution)) == (ExecutionState.CANCELLED, "tester")
    wait_until(lambda: not filter_alive([pid]))


def test_cancelled_execution_that_loses_its_worker_is_not_retried(engine: Engine) -> None:
    _, worker = engine.start()
    engine.wait_until_ready("ignore_termination")
    execution = _submit_and_wait_until_running(engine, "ignore_termination")
    plain, apart, orphan = list_started_pids(engine, execution)
    started = [get_attempt_pid(engine, execution), plain, orphan]
    worker.send_signal(signal.SIGSTOP)
    engine.cancel(execution)
    worker.terminate(signal.SIGKILL)
    engine.start_worker()
    row = engine.wait_until_final(execution)
    assert (row.state, row.reason, row.attempt) == (ExecutionState.CANCELLED, "cancelled before the next attempt", 1)
    assert _get_cancel_requester(engine, execution) == "tester"
    assert engine.count_starts()[execution, 1] == 1
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")
    kill_processes(apart, *list_descendants(apart))


def test_worker_in_warm_shutdown_still_stops_cancelled_jobs(engine: Engine) -> None:
    _, worker = engine.start()
    engine.wait_until_ready("ignore_termination")
    looks, ignores = (
        _submit_and_wait_until_running(engine, "raise_if_job_cancelled"),
        _submit_and_wait_until_running(engine, "ignore_termination"),
    )
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in engine.read_log(worker))
    engine.cancel(looks)
    engine.cancel(ignores)
    assert [engine.wait_until_final(execution).state for execution in (looks, ignores)] == [
        ExecutionState.CANCELLED
    ] * 2
    wait_until(lambda: not worker.is_alive(), what="the end of the worker")


def test_job_ending_during_cancellation_has_one_end(engine: Engine) -> None:
    """A stop request takes about a second: these jobs end before it, with it, or after it."""
    engine.start_relay()
    engine.start_worker("-c", "8")
    engine.wait_until_ready("hold_until_cancelled")
    execution_ids = [
        engine.submit_one("hold_until_cancelled", parameters={"seconds": 0.1 * number}) for number in range(24)
    ]
    for execution in execution_ids:
        with contextlib.suppress(ExecutionNotCancellable):
            wait_until(lambda execution=execution: engine.get(execution).state is not ExecutionState.QUEUED)  # type: ignore[misc]
            engine.cancel(execution)
    rows = [engine.wait_until_final(execution) for execution in execution_ids]
    assert {row.state for row in rows} == {ExecutionState.SUCCEEDED, ExecutionState.CANCELLED}
    ended = engine.count_ends()
    for row in rows:
        final = Counter(state for _, state in engine.list_transitions(row.id) if ExecutionState(state) in FINAL_STATES)
        assert sum(final.values()) == 1
        assert (ended[row.id, 1] == 1) == (row.state is ExecutionState.SUCCEEDED)
