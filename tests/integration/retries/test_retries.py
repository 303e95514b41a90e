"""Retries of failed attempts: by policy, by Celery's options, and by exceptions of the job."""

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from tests.engine import Engine


def list_attempt_states(engine: Engine, execution: str) -> list[str]:
    """Return the states of the attempts of an execution."""
    return [attempt.state.value for attempt in executions.list_attempts(engine.database, execution).items]


def list_retry_reasons(engine: Engine, execution: str) -> list[str | None]:
    """Return the reason of each retry."""
    rows = executions.list_transitions(engine.database, execution, limit=200).items
    return [row.reason for row in rows if row.state is ExecutionState.RETRYING]


def submit_and_wait(engine: Engine, job: str, **fields: object) -> ExecutionRow:
    """Submit an execution of `job` with these fields, and return it once it is final."""
    return engine.wait_until_final(engine.submit_one(job, **fields))


def get_error(row: ExecutionRow) -> tuple[str | None, str | None]:
    """Return type and message of the error."""
    assert row.error is not None
    return row.error["type"], row.error["message"]


def test_retry_policy_retries_until_success(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "fail_until", parameters={"good_attempt": 3})
    assert (row.state, row.result, row.max_attempts) == (ExecutionState.SUCCEEDED, 3, 3)
    assert list_attempt_states(running_engine, row.id) == ["Failed", "Failed", "Succeeded"]
    assert list_retry_reasons(running_engine, row.id) == ["ExcludedError: attempt 1", "ExcludedError: attempt 2"]
    first = executions.list_attempts(running_engine.database, row.id).items[0]
    assert first.error is not None
    assert "raise ExcludedError" in first.error["traceback"]


def test_retry_policy_ends_after_max_attempts(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "fail_until")
    assert (row.state, row.attempt, get_error(row)) == (ExecutionState.FAILED, 3, ("ExcludedError", "attempt 3"))
    assert list_attempt_states(running_engine, row.id) == ["Failed"] * 3


def test_execution_overrides_the_retry_policy(running_engine: Engine) -> None:
    own = {"strategy": "fixed", "delay": 0.02, "max_attempts": 5}
    row = submit_and_wait(running_engine, "fail_until", retry=own)
    assert (row.state, row.attempt) == (ExecutionState.FAILED, 5)
    once = submit_and_wait(running_engine, "fail_until", retry={"max_attempts": 1})
    assert (once.state, once.attempt) == (ExecutionState.FAILED, 1)


@pytest.mark.parametrize(("kind", "tried"), [("FileNotFoundError", 3), ("ExcludedError", 1), ("ValueError", 1)])
def test_retry_on_selects_retried_errors(running_engine: Engine, kind: str, tried: int) -> None:
    row = submit_and_wait(running_engine, "fail_with", parameters={"kind": kind})
    assert (row.state, row.attempt) == (ExecutionState.FAILED, tried)


def test_retry_policy_overrides_celery_options(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "fail_with_celery_autoretry", retry={"delays": [0.05], "max_attempts": 2})
    assert (row.state, row.attempt, get_error(row)) == (ExecutionState.FAILED, 2, ("ValueError", "no"))
    waits = running_engine.submit_one("fail_with_celery_autoretry", retry={"max_attempts": 2})
    running_engine.wait_for_state(waits, ExecutionState.RETRYING)
    assert (running_engine.get(waits).due_at - running_engine.clock.now()).total_seconds() > 3000


@pytest.mark.parametrize("job", ["raise_retry_over_policy", "retry_at_time"])
def test_retry_raised_by_the_job_overrides_the_policy(running_engine: Engine, job: str) -> None:
    row = submit_and_wait(running_engine, job)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, 2)
    assert list_retry_reasons(running_engine, row.id) == [
        "the other side said so" if job == "retry_at_time" else "the job asked for a retry"
    ]


def test_retry_of_a_plain_task_ends_after_max_retries(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "plain_retry_at_time")
    assert (row.state, row.attempt) == (ExecutionState.FAILED, 2)
    assert get_error(row) == ("MaxRetriesExceededError", "no attempt is left after 2: still not there")
    because = submit_and_wait(running_engine, "plain_retry_at_time", parameters={"why": "key"})
    assert (because.state, because.attempt, get_error(because)) == (ExecutionState.FAILED, 2, ("KeyError", "'key'"))
    assert list_retry_reasons(running_engine, because.id) == ["KeyError: 'key'"]


def test_snoozed_attempt_uses_no_retry(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "snooze", parameters={"times": 4})
    assert (row.state, row.result, row.attempt, row.max_attempts) == (ExecutionState.SUCCEEDED, 5, 5, 1)
    assert list_attempt_states(running_engine, row.id) == ["Snoozed"] * 4 + ["Succeeded"]
    assert list_retry_reasons(running_engine, row.id) == ["the other side is closed"] * 4
    assert max(running_engine.count_starts().values()) == 1


def test_snoozed_execution_keeps_all_its_attempts(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "snooze_then_fail")
    assert (row.state, row.attempt, get_error(row)) == (ExecutionState.FAILED, 4, ("ValueError", "after all"))
    assert list_attempt_states(running_engine, row.id) == ["Snoozed", "Snoozed", "Failed", "Failed"]


@pytest.mark.parametrize("job", ["abort", "plain_abort", "abort_over_policy"])
def test_abort_fails_the_execution_without_retry(running_engine: Engine, job: str) -> None:
    row = submit_and_wait(running_engine, job)
    assert (row.state, row.attempt, row.reason) == (ExecutionState.FAILED, 1, "the account is closed")
    assert get_error(row) == ("Abort", "the account is closed")


def test_invalid_snooze_delay_is_an_error_of_the_job(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "snooze_with_invalid_delay")
    assert (row.state, row.attempt) == (ExecutionState.FAILED, 3)
    assert get_error(row) == ("ValueError", "delay must be 0 seconds to 366 days, not -1 s")


def test_retry_accepts_a_point_in_time(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "raise_celery_retry")
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, 2)


def test_soft_time_limit_is_retried_by_the_policy(running_engine: Engine) -> None:
    row = submit_and_wait(running_engine, "raise_soft_limit")
    assert (row.state, row.attempt, row.reason) == (ExecutionState.TIMED_OUT, 2, "soft time limit exceeded")
    assert list_attempt_states(running_engine, row.id) == ["TimedOut", "TimedOut"]
