"""Isolated jobs in their own processes, with real workers."""

import contextlib
import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.services.executions import executions
from jobworker.store.executions import timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.worker.isolation.subreaper import find_descendants
from tests.engine import Engine
from tests.integration.isolation.conftest import (
    POOLS,
    get_error,
    list_log_lines,
    list_start_pids,
    run_engine_in,
    wait_for_log_line,
    wait_until_started,
)
from tests.integration.isolation.test_program import is_alive
from tests.polling import wait_until
from tests.servers import ServerProcess

MIB = 1024**2


def get_resident_bytes(pid: int) -> int:
    """Return the resident memory of a process (bytes)."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def test_isolated_job_has_full_context_and_log(engine: Engine) -> None:
    secret = "in nobody's list of processes"
    execution = engine.submit_one("describe_process", parameters={"secret": secret}, correlation_id="c-1")
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.SUCCEEDED, (row.error, row.reason)
    assert row.result is not None
    result = row.result
    assert (result["execution"], result["attempt"], result["correlation_id"]) == (execution, 1, "c-1")
    assert result["parameters"] == {"secret": secret}
    assert result["worker"] == row.worker
    assert result["stdin"] == ""
    assert row.code_version

    assert result["command"][-2] == "jobworker.worker.isolation.child"
    everybody_sees = " ".join(result["command"] + result["environment"])
    assert not [word for word in (secret, execution, "describe_process") if word in everybody_sees]
    assert not is_alive(result["pid"])

    for text, level, logger in (
        ("by its logger", "INFO", "jobs.describe_process"),
        ("by another", "WARNING", "elsewhere"),
        ("printed", "INFO", "stdout"),
        ("past Python", "INFO", "stdout"),
        ("complained", "WARNING", "stderr"),
    ):
        line = wait_for_log_line(engine, execution, text)
        assert (line.level, line.logger, line.message) == (level, logger, text)
    shown = wait_until(lambda: engine.get(execution).progress)
    assert shown
    assert (shown["done"], shown["total"], shown["message"]) == (3, 10, "on the way")
    assert engine.get(execution).metadata == {"colour": "red"}
    assert len(list_log_lines(engine, execution)) == 5


def test_isolated_job_outcomes_are_recorded(engine: Engine) -> None:
    ways = ["segfault", "leave", "exit", "kill", "raise", "not json", "forge", "lie", "nest"]
    execution_ids = {how: engine.submit_one("end_badly", parameters={"how": how}) for how in ways}
    rows = {how: engine.wait_until_final(execution) for how, execution in execution_ids.items()}
    assert {how: row.state for how, row in rows.items()} == {
        **dict.fromkeys(ways, ExecutionState.FAILED),
        "lie": ExecutionState.SUCCEEDED,
        "nest": ExecutionState.SUCCEEDED,
    }
    errors = {how: get_error(row) for how, row in rows.items() if row.state is ExecutionState.FAILED}
    assert {how: error["type"] for how, error in errors.items()} == {
        "segfault": "ProcessCrashed", "leave": "ProcessCrashed", "exit": "SystemExit", "kill": "ProcessCrashed",
        "raise": "ValueError", "not json": "ResultRefused", "forge": "ResultRefused",
    }  # fmt: skip
    assert errors["segfault"]["message"] == "the job's process is gone: it was killed by SIGSEGV"
    assert errors["kill"]["message"] == "the job's process is gone: it was killed by SIGKILL"
    assert errors["leave"]["message"] == "the job's process is gone: it ended with exit code 7"
    assert "the job's process reported nesting of more than 100 levels" in errors["forge"]["message"]
    assert rows["exit"].reason == "the job called sys.exit(3)"
    assert "in end_badly" in errors["raise"]["traceback"]
    assert (rows["lie"].result, rows["lie"].attempt) == ("well", 1)
    assert all(engine.count_starts()[(execution, 1)] == 1 for execution in execution_ids.values())


def test_resource_limits_end_only_the_isolated_job(engine: Engine) -> None:
    fits = engine.submit_one("allocate_memory", parameters={"mib": 50})
    much = engine.submit_one("allocate_memory", parameters={"mib": 1000})
    long = engine.submit_one("use_cpu")
    assert engine.wait_until_final(fits).result == 50
    row = engine.wait_until_final(much)
    assert (row.state, get_error(row)["type"]) == (ExecutionState.FAILED, "MemoryError")
    assert row.reason == f"its memory limit of {200 * MIB} bytes is used up"
    row = engine.wait_until_final(long)
    assert (row.state, get_error(row)["type"]) == (ExecutionState.FAILED, "ProcessCrashed")
    assert get_error(row)["message"] == "the job's process used up its 3 s of CPU time"


def test_isolated_job_follows_retry_rules(engine: Engine) -> None:
    by_celery = engine.submit_one("succeed_at_attempt")
    by_itself = engine.submit_one("request_retry")
    after_a_crash = engine.submit_one("crash_once")
    exhausted = engine.submit_one("succeed_at_attempt", parameters={"good_attempt": 9})
    for execution in (by_celery, by_itself, after_a_crash):
        row = engine.wait_until_final(execution)
        assert (row.state, row.result, row.attempt) == (ExecutionState.SUCCEEDED, 2, 2)
    row = engine.wait_until_final(exhausted)
    assert (row.state, row.attempt, get_error(row)["message"]) == (ExecutionState.FAILED, 3, "not yet: 3")
    attempts = executions.list_attempts(engine.database, after_a_crash).items
    assert attempts[0].error
    assert "SIGABRT" in attempts[0].error["message"]


def test_hard_limit_ends_all_processes_of_the_job(engine: Engine) -> None:
    policy = {"strategy": "fixed", "delay": 0.1, "max_attempts": 2}
    execution = engine.submit_one("ignore_sigterm", retry=policy)
    row = engine.wait_until_final(execution)
    assert (row.state, row.reason, row.attempt) == (ExecutionState.TIMED_OUT, "hard time limit exceeded", 2)
    assert get_error(row)["message"] == "the hard time limit of 2 s passed"
    assert row.started_at is not None
    assert row.finished_at is not None
    pids = list_start_pids(engine, execution)
    assert len(pids) == 2 * 3
    assert not any(is_alive(pid) for pid in pids)


def test_soft_limits_and_extensions_apply_to_isolated_jobs(engine: Engine) -> None:
    minds = engine.submit_one("wait_for_soft_limit", parameters={"minds": True})
    does_not = engine.submit_one("wait_for_soft_limit", parameters={"minds": False})
    longer = engine.submit_one("extend_time_limit")
    row = engine.wait_until_final(minds)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "cleaned up")
    assert row.reason == "succeeded after its soft time limit of 1 s had passed"
    wait_for_log_line(engine, minds, "its soft time limit of 1 s has passed")
    row = engine.wait_until_final(does_not)
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "soft time limit exceeded")
    row = engine.wait_until_final(longer)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "in the end")


@pytest.mark.parametrize("minds", [True, False])
def test_running_isolated_job_is_cancelled(engine: Engine, minds: bool) -> None:
    execution = engine.submit_one("wait_for_cancellation", parameters={"minds": minds})
    pids = wait_until_started(engine, execution)
    engine.cancel(execution)
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.CANCELLED
    by_itself = "the job stopped by itself"
    assert row.reason == (by_itself if minds else "it did not stop by itself and was ended by SIGKILL")
    assert not any(is_alive(pid) for pid in pids)


def test_hooks_run_in_the_isolated_process(engine: Engine) -> None:
    good = engine.submit_one("LogHookProcesses")
    bad = engine.submit_one("LogHookProcesses", parameters={"fails": True})
    assert engine.wait_until_final(good).result == "done"
    assert get_error(engine.wait_until_final(bad))["message"] == "as told"
    for execution, expected in (
        (good, ["before", "start", "done", "Succeeded"]),
        (bad, ["before", "start", "ValueError", "Failed"]),
    ):
        noted = [line.split() for line in engine.activity_log.read_text().splitlines() if line.startswith(execution)]
        assert [activity for _, _, activity, _ in noted] == expected
        assert len({pid for *_, pid in noted}) == 1


def test_isolated_job_calls_and_is_called_from_python(engine: Engine) -> None:
    caller = engine.submit_one("call_isolated_job")
    called = str(engine.wait_until_final(caller).result)
    wait_until(lambda: called in engine.list_succeeded(), within=60, what="the call")
    row = engine.get(called)
    assert row.result is not None
    assert row.result["command"][-2] == "jobworker.worker.isolation.child"
    assert row.created_by == f"execution:{caller}"


def test_working_folder_change_does_not_affect_the_next_job(engine: Engine) -> None:
    engine.wait_until_final(engine.submit_one("change_working_folder"))
    rows = [
        engine.wait_until_final(engine.submit_one("succeed_at_attempt", parameters={"good_attempt": 1}))
        for _ in range(2)
    ]
    assert [row.result for row in rows] == [1, 1]


def test_time_limits_apply_on_the_solo_pool(tmp_path: Path) -> None:
    with run_engine_in(tmp_path) as engine:
        engine.start_relay()
        engine.start_worker("--pool", "solo")
        engine.wait_until_ready("ignore_sigterm")
        execution = engine.submit_one("ignore_sigterm")
        row = engine.wait_until_final(execution)
        assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "hard time limit exceeded")
        assert not any(is_alive(pid) for pid in list_start_pids(engine, execution))


def test_remaining_thread_does_not_delay_the_end(engine: Engine) -> None:
    row = engine.wait_until_final(engine.submit_one("leave_thread"))
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "returned")


@pytest.mark.parametrize("pool", POOLS)
def test_isolated_job_ends_with_its_worker(tmp_path: Path, pool: str) -> None:
    with run_engine_in(tmp_path) as engine:
        engine.start_relay()
        worker = engine.start_worker("--pool", pool)
        engine.wait_until_ready("wait_for_cancellation")
        [pid] = wait_until_started(engine, engine.submit_one("wait_for_cancellation", parameters={"minds": False}))
        worker.terminate()
        wait_until(lambda: not is_alive(pid), what="the end of the job's process")


@pytest.mark.timeout(300)
def test_gigabytes_of_output_exhaust_no_memory(engine: Engine, worker: ServerProcess) -> None:
    execution_ids = [engine.submit_one("print_gigabyte", parameters={"how": how}) for how in ("line", "lines", "log")]
    most = 0

    def final() -> list[ExecutionRow] | None:
        nonlocal most
        most = max(most, *map(get_resident_bytes, [worker.pid, *find_descendants(worker.pid)]))
        rows = [engine.get(execution) for execution in execution_ids]
        return rows if all(row.state in FINAL_STATES for row in rows) else None

    rows = wait_until(final, within=280, every=0.1)
    assert [(row.state, row.result) for row in rows or ()] == [(ExecutionState.SUCCEEDED, "said")] * 3
    assert most < 300 * MIB
    with engine.database.read() as connection:
        statement = sa.text(
            "SELECT max(size) FROM (SELECT sum(length(message)) AS size FROM execution_logs GROUP BY execution_id)"
        )
        assert 0 < connection.execute(statement).scalar_one() < 11 * MIB

    def what_is_missing() -> bool:
        with engine.database.read() as connection:
            lasts = [
                timeline.list_logs_after(connection, execution, "", 100_000)[-1].message for execution in execution_ids
            ]
        return all("not kept" in last for last in lasts)

    wait_until(what_is_missing, what="a last line in each log that says what is missing")
