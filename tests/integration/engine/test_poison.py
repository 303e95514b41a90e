"""Worker losses are counted for the job that caused them, and for no other."""

import signal
from pathlib import Path

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import dead_letters, executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import ServerProcess


def _start_solo_workers(engine: Engine, count: int) -> list[ServerProcess]:
    return [engine.start_worker("--pool", "solo", "-n", f"w{number}@%h") for number in range(count)]


def test_job_that_kills_its_worker_three_times_becomes_a_dead_letter(any_engine: Engine) -> None:
    engine = any_engine
    engine.start_relay()
    workers = _start_solo_workers(engine, 4)
    engine.wait_until_ready("poison")
    before = engine.submit("noop", count=30)
    poison = engine.submit_one("poison")
    after = engine.submit("noop", count=30)
    single = engine.submit("run_once", count=10)

    row = engine.wait_until_final(poison, within=120)
    assert (row.state, row.attempt, row.dead_letter) == (ExecutionState.FAILED, 3, "open")
    assert (row.error or {})["type"] == "Poisoned"
    assert "it took 3 workers with it" in (row.reason or "")
    assert engine.wait_until_all_final()["Succeeded"] == len([*before, *after, *single])
    [letter] = dead_letters.list_page(engine.database, ExecutionFilters()).items
    assert (letter.id, letter.cause, letter.attempt) == (poison, "poisoned", 3)
    starts = engine.count_starts()
    assert [starts[poison, attempt] for attempt in range(1, 5)] == [1, 1, 1, 0]
    assert {starts[key, 1] + starts[key, 2] for key in single} == {1}, "what must not run twice ran once"
    # The third attempt runs in a process of its own, and kills only that one.
    assert len([worker for worker in workers if worker.is_alive()]) == 2


def test_jobs_that_share_a_process_with_a_poisonous_job_succeed(engine: Engine, tmp_path: Path) -> None:
    engine.start_relay()
    workers = [engine.start_worker("--pool", "threads", "-c", "16", "-n", f"w{number}@%h") for number in range(3)]
    engine.wait_until_ready("poison")
    gate = tmp_path / "gate"
    innocent = engine.submit("wait_for_file", count=10, path=str(gate))
    wait_until(lambda: all(engine.is_running(key) for key in innocent), what="all to run beside each other")
    poison = engine.submit_one("poison", priority=9)

    row = engine.wait_until_final(poison, within=120)
    assert (row.state, row.attempt, (row.error or {})["type"]) == (ExecutionState.FAILED, 3, "Poisoned")
    gate.touch()
    assert {engine.wait_until_final(key).state for key in innocent} == {ExecutionState.SUCCEEDED}
    assert len([worker for worker in workers if worker.is_alive()]) == 1


def test_marked_but_unstarted_executions_of_a_dead_worker_count_no_loss(engine: Engine, tmp_path: Path) -> None:
    engine.start_relay()
    [dead] = _start_solo_workers(engine, 1)
    engine.wait_until_ready("run_once")
    # The jobs are short, so the worker marks several messages ahead of the one that starts.
    execution_ids = engine.submit("run_once", count=900)
    wait_until(lambda: len(engine.list_succeeded()) > 100, every=0.001)
    held = engine.submit_one("run_once_until_file", parameters={"path": str(tmp_path / "gate")}, priority=9)
    wait_until(lambda: engine.is_running(held))
    dead.terminate(signal.SIGKILL)
    _start_solo_workers(engine, 1)

    assert engine.wait_until_all_final() == {"Succeeded": 900, "Failed": 1}
    assert engine.get(held).state is ExecutionState.FAILED
    starts = engine.count_starts()
    assert {sum(starts[key, attempt] for attempt in (1, 2)) for key in execution_ids} == {1}
    lost = [
        row
        for key in execution_ids
        for row in executions.list_attempts(engine.database, key).items
        if row.state == "Lost"
    ]
    assert lost
    assert all(row.started_at is None and "before it began" in (row.reason or "") for row in lost)
