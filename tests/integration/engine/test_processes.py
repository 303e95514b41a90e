"""Processes that jobs start by `multiprocessing`, `concurrent.futures` or `os.fork`: they work, and end with it."""

import signal
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from tests.child_processes import filter_alive, kill_processes, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until

_SQUARES = {"process": 0, "pool": [0, 1, 4], "executor": [0, 1, 4]}


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Ids of processes that jobs have started; processes left by a failed test are killed."""
    pids: list[int] = []
    yield pids
    kill_processes(*pids)


def _list_log_lines(engine: Engine, execution: str) -> list[str]:
    with engine.database.read() as connection:
        query = sa.text("SELECT message FROM execution_logs WHERE execution_id = :id ORDER BY seq")
        return list(connection.scalars(query, {"id": execution}))


@pytest.mark.parametrize("job", ["compute_in_processes", "compute_in_isolated_processes"])
def test_processes_work_with_every_start_method(running_engine: Engine, job: str) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one(job), within=120.0)
    assert row.result == {"fork": _SQUARES, "spawn": _SQUARES, "forkserver": _SQUARES}, row.error


@pytest.mark.parametrize("job", ["log_in_child", "log_in_isolated_child"])
def test_lines_of_a_forked_process_are_logged_once(running_engine: Engine, job: str) -> None:
    execution = running_engine.submit_one(job, parameters={"lines": 50})
    running_engine.wait_until_final(execution)
    lines = [f"line {number}" for number in range(50)]
    expected = sorted([*lines, "logged in a child", "printed in a child"])
    wait_until(
        lambda: len(_list_log_lines(running_engine, execution)) >= len(expected), what="the lines to be recorded"
    )
    assert sorted(_list_log_lines(running_engine, execution)) == expected


@pytest.mark.parametrize(("how", "status"), [("return", 0), ("raise", 1), ("exit", 3)])
@pytest.mark.parametrize("job", ["fork", "fork_isolated"])
def test_forked_process_that_leaves_the_job_ends_and_reports_nothing(
    running_engine: Engine, job: str, how: str, status: int
) -> None:
    execution = running_engine.submit_one(job, parameters={"how": how})
    row = running_engine.wait_until_final(execution)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, status)
    assert running_engine.list_transitions(execution) == [(0, "Queued"), (1, "Running"), (1, "Succeeded")]
    # Later messages are not fetched by the other process.
    later = running_engine.submit("noop", 4)
    assert [running_engine.wait_until_final(execution_id).state for execution_id in later] == [
        ExecutionState.SUCCEEDED
    ] * 4
    raised = any("raised in the child" in line for line in _list_log_lines(running_engine, execution))
    assert raised == (how == "raise")


def test_cancelled_job_is_ended_with_its_processes(engine: Engine, started: list[int]) -> None:
    engine.start()
    execution = engine.submit_one("leave_processes", parameters={"stays": True})
    wait_until(lambda: engine.get(execution).state is ExecutionState.RUNNING and engine.is_running(execution))
    started += list_started_pids(engine, execution)
    assert filter_alive(started) == started
    engine.cancel(execution)
    assert engine.wait_until_final(execution).state is ExecutionState.CANCELLED
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")


def test_stopped_threads_worker_ends_processes_left_by_its_jobs(engine: Engine, started: list[int]) -> None:
    engine.start_relay()
    worker = engine.start_worker("--pool", "threads")
    engine.wait_until_ready()
    execution = engine.submit_one("leave_processes", parameters={"stays": False})
    assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED
    started += list_started_pids(engine, execution)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: not worker.is_alive(), within=30.0, what="the end of the worker")
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")
