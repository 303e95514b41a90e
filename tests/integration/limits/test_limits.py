"""Time limits on real workers: the job is stopped, the end is recorded, and no process is left."""

from typing import Any

import pytest
from celery import Celery

from jobworker.domain.executions.execution import AttemptState, ExecutionState
from jobworker.services.executions import executions
from tests.child_processes import filter_alive, get_attempt_pid, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until

#: Guaranteed maximum time between the limit and the recorded end (s).
_MAX_STOP_SECONDS = 5.0


@pytest.fixture(scope="module")
def running(persistent_engine: Engine) -> Engine:
    """Engine with a relay and a worker with one process."""
    persistent_engine.start_relay()
    persistent_engine.start_worker("-c", "1")
    persistent_engine.wait_until_ready("ignore_termination")
    return persistent_engine


def _list_log_lines(engine: Engine, execution: str) -> list[tuple[str, str]]:
    return [(line.level, line.message) for line in executions.list_log_lines(engine.database, execution).items]


@pytest.mark.parametrize("stubborn", [True, False], ids=["ignores SIGTERM", "minds SIGTERM"])
def test_hard_limit_ends_the_job_and_its_processes(running: Engine, stubborn: bool) -> None:
    engine = running
    execution = engine.submit_one("ignore_termination", parameters={"ignore_signals": stubborn}, time_limit=1.0)
    wait_until(lambda: engine.is_running(execution))
    started = [get_attempt_pid(engine, execution), *list_started_pids(engine, execution)]
    assert len(filter_alive(started)) == 4

    row = engine.wait_until_final(execution)
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "hard time limit exceeded")
    assert row.error is not None
    assert row.error["message"] == "the hard time limit of 1 s passed"
    assert row.finished_at is not None
    assert row.started_at is not None
    assert 1.0 <= (row.finished_at - row.started_at).total_seconds() <= 1.0 + _MAX_STOP_SECONDS
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")
    [attempt] = executions.list_attempts(engine.database, execution).items
    assert attempt.state is AttemptState.TIMED_OUT
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED, (
        "another process has taken its place"
    )


def test_job_that_suppresses_its_hard_limit_is_timed_out(running: Engine) -> None:
    engine = running
    execution = engine.submit_one("suppress_all_exceptions", parameters={"seconds": 2.0}, time_limit=0.5)
    assert engine.wait_until_final(execution).state is ExecutionState.TIMED_OUT
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED


def test_suppressed_soft_limit_is_recorded(running: Engine) -> None:
    engine = running
    execution = engine.submit_one("suppress_soft_limit", parameters={"seconds": 1.5}, soft_time_limit=0.5)
    row = engine.wait_until_final(execution)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "done all the same")
    assert row.reason == "succeeded after its soft time limit of 0.5 s had passed"
    warning = ("WARNING", "its soft time limit of 0.5 s has passed")
    wait_until(
        lambda: warning in _list_log_lines(engine, execution),
        what=f"{warning}; told: {_list_log_lines(engine, execution)}",
    )


def test_extended_job_ends_in_time_or_at_its_extended_limit(running: Engine) -> None:
    engine = running
    limits = {"soft_time_limit": 0.6, "time_limit": 0.9}
    row = engine.wait_until_final(engine.submit_one("extend_limit", parameters={"seconds": 1.5, "by": 5}, **limits))
    assert (row.state, row.reason) == (ExecutionState.SUCCEEDED, None)
    row = engine.wait_until_final(
        engine.submit_one("extend_limit", parameters={"seconds": 30, "by": 0.5}, time_limit=0.5)
    )
    assert row.state is ExecutionState.TIMED_OUT
    assert row.error is not None
    assert row.error["message"] == "the hard time limit of 1 s passed", "what it was extended by counts"
    row = engine.wait_until_final(
        engine.submit_one("extend_limit", parameters={"seconds": 30, "by": 0.5}, soft_time_limit=0.5)
    )
    assert row.state is ExecutionState.TIMED_OUT
    assert row.error is not None
    assert row.error["message"] == "the soft time limit of 1 s passed"


def test_invalid_extension_raises_with_a_reason(running: Engine) -> None:
    messages = running.wait_until_final(running.submit_one("extend_with_invalid_time", time_limit=60)).result
    assert messages[0] == "ValueError: context.extend() takes more than 0 and at most 2592000 seconds, not 0"
    assert [message.partition(":")[0] for message in messages] == [*["ValueError"] * 4, *["TypeError"] * 2]


def test_extension_ends_with_its_attempt(running: Engine) -> None:
    engine = running
    limits = {"time_limit": 1.0}
    first = engine.submit_one("extend_limit", parameters={"seconds": 0.1, "by": 1000}, **limits)
    second = engine.submit_one("ignore_termination", **limits)
    assert engine.wait_until_final(first).state is ExecutionState.SUCCEEDED
    assert engine.wait_until_final(second).state is ExecutionState.TIMED_OUT


def test_pool_process_leads_its_own_group_and_session(running: Engine) -> None:
    identity = running.wait_until_final(running.submit_one("return_process_ids")).result
    assert identity["pid"] == identity["group"] == identity["session"]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_job_with_limit_on_threads_or_solo_pool_is_isolated(engine: Engine, pool: str) -> None:
    engine.start_relay()
    worker = engine.start_worker("--pool", pool, "-c", "1")
    engine.wait_until_ready("ignore_termination")
    row = engine.wait_until_final(engine.submit_one("return_process_ids", time_limit=60))
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 1)
    assert row.result["pid"] != worker.pid
    execution = engine.submit_one("ignore_termination", time_limit=1.0)
    wait_until(lambda: engine.is_running(execution))
    started = [get_attempt_pid(engine, execution), *list_started_pids(engine, execution)]
    assert engine.wait_until_final(execution).state is ExecutionState.TIMED_OUT
    wait_until(lambda: not filter_alive(started), what=f"the end of {started}")
    row = engine.wait_until_final(
        engine.submit_one("suppress_soft_limit", parameters={"seconds": 1.5}, soft_time_limit=0.5)
    )
    assert (row.state, row.reason) == (
        ExecutionState.SUCCEEDED,
        "succeeded after its soft time limit of 0.5 s had passed",
    )
    row = engine.wait_until_final(
        engine.submit_one("extend_limit", parameters={"seconds": 1.5, "by": 60}, time_limit=1.0)
    )
    assert row.state is ExecutionState.SUCCEEDED
    assert engine.wait_until_final(engine.submit_one("return_process_ids")).result["pid"] == worker.pid, (
        "without a limit as ever"
    )


def test_job_with_limit_on_a_custom_pool_fails(engine: Engine) -> None:
    engine.start_relay()
    engine.start_worker("--pool", "custom", "-c", "1", CELERY_CUSTOM_WORKER_POOL="tests.jobs.otherpool:OtherTaskPool")
    engine.wait_until_ready()
    execution = engine.submit_one("noop", time_limit=60, soft_time_limit=30)
    row = engine.wait_until_final(execution)
    why = "a worker with the pool otherpool cannot enforce its limits (time_limit 60 s, soft_time_limit 30 s)"
    assert (row.state, row.reason, row.attempt) == (ExecutionState.FAILED, why, 0)
    assert row.error is not None
    assert row.error["type"] == "TimeLimitNotKept"
    assert "--pool prefork" in row.error["message"]
    assert not engine.is_running(execution)
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED, (
        "nothing else is disturbed"
    )


def test_worker_time_limits_apply_to_jobs_without_limits(engine: Engine) -> None:
    engine.start_relay()
    engine.start_worker("-c", "1", "--soft-time-limit", "1", "--time-limit", "60")
    engine.wait_until_ready()
    row = engine.wait_until_final(engine.submit_one("hold", parameters={"seconds": 30}))
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "soft time limit exceeded")


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
def test_retry_policy_covers_time_limits(running: Engine, limit: str) -> None:
    engine = running
    names = {"time_limit": "TimeLimitExceeded", "soft_time_limit": "celery.exceptions.SoftTimeLimitExceeded"}
    policy = {"strategy": "fixed", "delay": 0.1, "max_attempts": 2, "retry_on": [names[limit]]}
    limits: dict[str, Any] = {limit: 0.5}
    good, bad = (
        engine.submit_one("exceed_limit_until", parameters={"good_attempt": attempt}, retry=policy, **limits)
        for attempt in (2, 9)
    )
    row = engine.wait_until_final(good)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, 2)
    states = [attempt.state for attempt in executions.list_attempts(engine.database, good).items]
    assert states == [AttemptState.TIMED_OUT, AttemptState.SUCCEEDED]
    assert (1, "Retrying") in engine.list_transitions(good)
    row = engine.wait_until_final(bad)
    assert (row.state, row.attempt) == (ExecutionState.TIMED_OUT, 2)


def test_retry_policy_for_other_errors_leaves_a_timeout_final(running: Engine) -> None:
    policy = {"strategy": "fixed", "delay": 0.1, "retry_on": ["OSError"]}
    row = running.wait_until_final(running.submit_one("ignore_termination", retry=policy, time_limit=0.5))
    assert (row.state, row.attempt) == (ExecutionState.TIMED_OUT, 1)


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
def test_plain_celery_task_has_time_limits(running: Engine, limit: str) -> None:
    engine = running
    path = engine.folder / limit
    options: dict[str, Any] = {"time_limit": 1.0, "soft_time_limit": 30} if limit == "time_limit" else {}
    sender = Celery(broker=engine.redis_url, set_as_current=False)
    sender.send_task("plain_slow", kwargs={"path": str(path)}, queue="default", **options)
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED, (
        "the only process is free again"
    )
    assert path.exists() is (limit == "soft_time_limit")
