"""Class jobs in processes and in threads: their parameters, options and hooks."""

from typing import Any

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import executions
from jobworker.services.jobs import jobs
from tests.engine import Engine
from tests.polling import wait_until


def wait_for_log(engine: Engine, execution: str, last: str) -> list[str]:
    """Return the log of an execution, once it contains `last`."""

    def lines() -> list[str]:
        messages = [line.message for line in executions.list_log_lines(engine.database, execution).items]
        return messages if messages and messages[-1].splitlines()[0] == last else []

    return wait_until(lines, what=f"{last!r} in the log of {execution}; logs in {engine.folder}")


def test_class_job_takes_its_options_from_attributes(running_engine: Engine) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one("Export", parameters={"month": "May", "rows": 5}))
    assert row.result == {"month": "May", "format": "csv", "rows": 5, "heard": ["before_start"]}
    assert (row.priority, row.max_attempts, row.metadata) == (7, 2, {"heard": "before_start on_success after_return"})
    job = jobs.get(running_engine.database, "Export")
    assert [(parameter.name, parameter.type, parameter.required) for parameter in job.parameters] == [
        ("month", "string", True),
        ("format", "string", False),
        ("rows", "integer", False),
    ]
    definition = job.row.definition
    assert (definition.description, definition.tags) == ("Write the report of a month.", ("told",))
    assert definition.policies["retry"]["strategy"] == "fixed"


@pytest.mark.parametrize(
    ("how", "state", "hooks"),
    [
        ("returns", ExecutionState.SUCCEEDED, ["on_success 3", "after_return Succeeded"]),
        (
            "raises",
            ExecutionState.FAILED,
            [
                *("on_retry ValueError: raises 0.05", "after_return Retrying"),
                *("before_start {'how': 'raises', 'a': 1, 'b': 2}", "on_failure ValueError: raises"),
                "after_return Failed",
            ],
        ),
        ("gives up", ExecutionState.FAILED, ["on_failure Abort: gives up", "after_return Failed"]),
        (
            "recovers",
            ExecutionState.SUCCEEDED,
            [
                *("on_retry Retry: recovers 0.01", "after_return Retrying"),
                *("before_start {'how': 'recovers', 'a': 1, 'b': 2}", "on_success 3", "after_return Succeeded"),
            ],
        ),
        (
            "put off",
            ExecutionState.SUCCEEDED,
            [
                "after_return Retrying",
                *("before_start {'how': 'put off', 'a': 1, 'b': 2}", "on_success 3", "after_return Succeeded"),
            ],
        ),
    ],
)
def test_class_job_end_calls_its_hooks(
    running_engine: Engine, how: str, state: ExecutionState, hooks: list[str]
) -> None:
    parameters: dict[str, Any] = {"how": how, "a": 1, "b": 2}
    row = running_engine.wait_until_final(running_engine.submit_one("end_in_given_way", parameters=parameters))
    assert row.state is state
    assert wait_for_log(running_engine, row.id, hooks[-1]) == [f"before_start {parameters}", *hooks]
    assert max(running_engine.count_starts().values()) == 1


def test_cancelled_class_job_calls_on_cancel(running_engine: Engine) -> None:
    waits = running_engine.submit_one("WaitingJob")
    wait_until(lambda: running_engine.is_running(waits))
    running_engine.cancel(waits)
    row = running_engine.wait_until_final(waits)
    assert (row.state, row.metadata) == (ExecutionState.CANCELLED, {"heard": "before_start on_cancel after_return"})
    heard = wait_for_log(running_engine, waits, "after_return Cancelled")
    assert heard == ["before_start {}", "on_cancel None", "after_return Cancelled"]


def test_isolated_class_job_calls_the_same_hooks(running_engine: Engine) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one("IsolatedJob"))
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2)
    assert wait_for_log(running_engine, row.id, "after_return Succeeded") == [
        *("before_start {}", "on_retry ValueError: first 0.05", "after_return Retrying"),
        *("before_start {}", f"on_success {row.result}", "after_return Succeeded"),
    ]


def test_class_job_with_unstorable_result_fails(running_engine: Engine) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one("end_in_given_way", parameters={"how": "rubbish"}))
    assert row.state is ExecutionState.FAILED
    heard = wait_for_log(running_engine, row.id, "after_return Failed")
    assert heard[1].startswith("on_failure ResultRefused: ")


def test_failing_hooks_are_logged_and_change_nothing(running_engine: Engine) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one("FailingHooksJob", parameters={"good": True}))
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "good")
    lines = wait_for_log(running_engine, row.id, "after_return() failed")
    assert [line.splitlines()[0] for line in lines] == [
        *("before_start() failed", "on_success() failed", "after_return() failed"),
    ]
    assert lines[2].splitlines()[-1] == "RuntimeError: after Succeeded"
    bad = running_engine.wait_until_final(running_engine.submit_one("FailingHooksJob", parameters={"good": False}))
    assert (bad.state, bad.attempt) == (ExecutionState.FAILED, 2)
    lines = [line.splitlines()[0] for line in wait_for_log(running_engine, bad.id, "after_return() failed")]
    assert lines[:3] == ["before_start() failed", "on_retry() failed", "after_return() failed"]


def test_class_job_called_as_a_function_calls_no_end_hooks(running_engine: Engine) -> None:
    row = running_engine.wait_until_final(running_engine.submit_one("CallingJob"))
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, "May")
    [line] = [line.message for line in executions.list_log_lines(running_engine.database, row.id).items]
    assert line.startswith("before_start {'month': 'May'")
