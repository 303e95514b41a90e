"""Outcomes of attempts and their transitions."""

import contextlib
from pathlib import Path

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import executions
from jobworker.transport import keys
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer


def test_worker_records_every_outcome(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    execution_ids = {
        "noop": engine.submit_one("noop", parameters={"number": 7}),
        "flaky": engine.submit_one("flaky", parameters={"good_attempt": 3}),
        "exhausted": engine.submit_one("flaky", parameters={"good_attempt": 9}),
        "by hand": engine.submit_one("request_manual_retry", parameters={"countdown": 0.1}),
        "by call": engine.submit_one("retry_with_limit_in_call"),
        "fail": engine.submit_one("fail", parameters={"message": "as told"}),
        "plain": engine.submit_one("plain_celery_task", parameters={"left": 2}),
        "rubbish": engine.submit_one("return_unserializable"),
        "much": engine.submit_one("return_large_result"),
        "file": engine.submit_one("save_file"),
        "print_lines": engine.submit_one("print_lines", parameters={"lines": 3}),
    }
    rows = {name: engine.wait_until_final(key) for name, key in execution_ids.items()}

    assert (rows["noop"].state, rows["noop"].result, rows["noop"].attempt) == (ExecutionState.SUCCEEDED, 7, 1)
    assert engine.list_transitions(execution_ids["noop"]) == [(0, "Queued"), (1, "Running"), (1, "Succeeded")]
    assert rows["noop"].worker
    assert rows["noop"].dispatched_at
    assert rows["noop"].code_version
    assert rows["noop"].job_revision == 1

    assert (rows["flaky"].state, rows["flaky"].result) == (ExecutionState.SUCCEEDED, 3)
    assert engine.list_transitions(execution_ids["flaky"]) == [
        (0, "Queued"),
        *[(1, "Running"), (1, "Retrying"), (1, "Queued")],
        *[(2, "Running"), (2, "Retrying"), (2, "Queued")],
        *[(3, "Running"), (3, "Succeeded")],
    ]
    attempts = executions.list_attempts(engine.database, execution_ids["flaky"]).items
    assert [attempt.error["message"] if attempt.error else None for attempt in attempts] == [
        "not yet: 1",
        "not yet: 2",
        None,
    ]
    lines = wait_until(lambda: executions.list_log_lines(engine.database, execution_ids["flaky"]).items)
    assert [line.message for line in lines] == ["attempt 1", "attempt 2", "attempt 3"]
    progress = engine.get(execution_ids["flaky"]).progress
    assert progress == {"done": 3, "total": 3, "message": "trying", "attempt": 3}

    assert (rows["exhausted"].state, rows["exhausted"].attempt) == (ExecutionState.FAILED, 3)
    assert rows["exhausted"].error is not None
    assert rows["exhausted"].error["type"] == "ValueError"
    assert "raise ValueError" in rows["exhausted"].error["traceback"]
    assert (rows["by hand"].state, rows["by hand"].attempt) == (ExecutionState.FAILED, 2)
    assert (rows["by call"].state, rows["by call"].attempt) == (ExecutionState.FAILED, 2)
    assert rows["fail"].error is not None
    assert rows["fail"].error["message"] == "as told"
    assert rows["plain"].result == 3
    assert rows["rubbish"].state is ExecutionState.FAILED
    assert "not JSON" in rows["rubbish"].error["message"]  # type: ignore[index]
    kept = rows["much"].result_file
    assert (rows["much"].state, rows["much"].result, kept["size"]) == (ExecutionState.SUCCEEDED, None, 100_002)  # type: ignore[index]
    assert Path(rows["file"].result).read_text() == "hello"
    said = [line.message for line in executions.list_log_lines(engine.database, execution_ids["print_lines"]).items]
    assert said == ["line 0", "line 1", "line 2", "printed"]
    assert max(engine.count_starts().values()) == 1


def test_time_limits_end_the_job_and_are_recorded(engine: Engine) -> None:
    engine.start()
    hard, soft = engine.submit_one("exceed_hard_limit"), engine.submit_one("exceed_soft_limit")
    minded = engine.submit_one("return_on_soft_limit")

    assert engine.wait_until_final(hard).state is ExecutionState.TIMED_OUT
    assert engine.get(hard).reason == "hard time limit exceeded"
    assert engine.wait_until_final(soft).state is ExecutionState.TIMED_OUT
    assert engine.get(soft).reason == "soft time limit exceeded"
    assert engine.wait_until_final(minded).result == "cleaned up"
    assert max(engine.count_starts().values()) == 1


def test_job_that_kills_its_process_fails_after_three_attempts(engine: Engine) -> None:
    engine.start()
    poison, once, leaves = (
        engine.submit_one(job) for job in ("kill_own_process", "kill_own_process_once", "exit_with_code")
    )
    others = engine.submit("noop", count=20)

    row = engine.wait_until_final(poison)
    assert (row.state, row.attempt) == (ExecutionState.FAILED, 3)
    assert "it took 3 workers with it" in (row.reason or "")
    states = [attempt.state for attempt in executions.list_attempts(engine.database, poison).items]
    assert states == ["Lost", "Lost", "Lost"]
    assert (engine.wait_until_final(once).state, engine.get(once).attempt) == (ExecutionState.FAILED, 1)
    assert (engine.wait_until_final(leaves).state, engine.get(leaves).attempt) == (ExecutionState.FAILED, 1)
    assert engine.get(leaves).reason == "the job called sys.exit(3)"
    assert {engine.wait_until_final(key).state for key in others} == {ExecutionState.SUCCEEDED}


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_threads_and_solo_pools_run_report_and_send_heartbeats(engine: Engine, pool: str) -> None:
    engine.start_relay()
    engine.start_worker("--pool", pool)
    engine.wait_until_ready()
    # Longer than the lease: the worker must continue to send heartbeats.
    held = engine.submit_one("hold", parameters={"seconds": 8})
    engine.submit("noop", count=20)
    flaky = engine.submit_one("flaky", parameters={"good_attempt": 2})

    assert engine.wait_until_final(held).state is ExecutionState.SUCCEEDED
    assert engine.wait_until_final(flaky).result == 2
    assert engine.wait_until_all_final() == {"Succeeded": 22}
    assert max(engine.count_starts().values()) == 1


def test_delayed_and_queued_executions_are_cancelled_before_they_start(engine: Engine) -> None:
    engine.start()
    blockers = engine.submit("hold", count=2, seconds=3)
    wait_until(lambda: all(engine.is_running(key) for key in blockers))
    published = engine.submit_one("noop")
    wait_until(lambda: engine.get(published).dispatched_at)
    later = engine.submit_one("noop", delay=3600)

    assert engine.cancel(later).state is ExecutionState.CANCELLED
    assert engine.wait_until_final(engine.cancel(published).id).state is ExecutionState.CANCELLED
    assert {engine.wait_until_final(key).state for key in blockers} == {ExecutionState.SUCCEEDED}
    due_soon = engine.submit_one("noop", delay=1)
    assert engine.get(due_soon).state is ExecutionState.SCHEDULED
    assert engine.wait_until_final(due_soon).state is ExecutionState.SUCCEEDED
    assert engine.list_transitions(due_soon) == [(0, "Scheduled"), (0, "Queued"), (1, "Running"), (1, "Succeeded")]
    # The message of the cancelled execution was in Redis throughout, and a later one has run since.
    assert not engine.is_running(published)
    assert not engine.is_running(later)


def test_unstorable_text_and_numbers_fail_the_job_with_a_reason(any_engine: Engine, own_server: RedisServer) -> None:
    engine = any_engine
    engine.start()
    why = {"nul": "NUL", "half": "surrogate", "large": "64 bits", "deep": "100 levels", "tagged": "__type__"}
    refused = {kind: engine.submit_one("return_json", parameters={"kind": kind}) for kind in why}
    kept = {kind: engine.submit_one("return_json", parameters={"kind": kind}) for kind in ("just deep", "numbered")}
    strange = engine.submit_one("log_control_characters")
    with contextlib.closing(own_server.create_client()) as client:
        # A report that fits no column is skipped with a log line, and blocks no other report.
        event = {"kind": "running", "execution": strange, "attempt": "9" * 30, "data": '{"worker": "x"}'}
        client.xadd(keys.EVENTS, event)  # type: ignore[arg-type]

    for kind, execution in refused.items():
        row = engine.wait_until_final(execution)
        # The job has done its work, so it is not retried under any policy for failures.
        assert (row.state, row.attempt, row.error["type"]) == (ExecutionState.FAILED, 1, "ResultRefused")  # type: ignore[index]
        assert why[kind] in row.error["message"]  # type: ignore[index]
    assert engine.wait_until_final(kept["just deep"]).state is ExecutionState.SUCCEEDED
    assert engine.wait_until_final(kept["numbered"]).result == {"200": 3, "404": 1}
    assert max(engine.count_starts().values()) == 1
    row = engine.wait_until_final(strange)
    assert row.state is ExecutionState.FAILED
    assert "nul \N{REPLACEMENT CHARACTER} half" in row.error["message"]  # type: ignore[index]
    line = wait_until(lambda: executions.list_log_lines(engine.database, strange).items)[0]
    assert line.message.startswith("nul \N{REPLACEMENT CHARACTER} half")
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED


def test_transitions_record_actor_and_reason(engine: Engine) -> None:
    engine.start()
    execution_ids = [engine.submit_one("noop"), engine.submit_one("fail", parameters={"message": "as told"})]
    for execution in execution_ids:
        engine.wait_until_final(execution)
    transitions = [
        (row.reason, row.actor.partition(":")[0])
        for execution in execution_ids
        for row in executions.list_transitions(engine.database, execution).items
    ]
    begun = [("submitted", "test"), ("claimed by a worker", "worker")]
    assert transitions == [*begun, ("the job returned", "worker"), *begun, ("RuntimeError: as told", "worker")]
