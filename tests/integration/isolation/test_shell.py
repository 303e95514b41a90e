"""`shell.run` with real workers."""

import shutil
from typing import Any

import pytest

from jobworker.domain.executions.execution import ExecutionState
from tests.integration.isolation.conftest import get_error, list_log_lines, wait_for_log_line
from tests.system_driver import SystemDriver

SH, SLEEP = (shutil.which(name) or name for name in ("sh", "sleep"))

#: Commands that the worker of this module allows.
SETTINGS = {"JOBWORKER_SHELL": f"{SH}, {SLEEP}", "SECRET_OF_THE_WORKER": "s3cret"}


def submit_command(engine: SystemDriver, *command: str, **fields: Any) -> str:
    """Submit a command."""
    parameters = {"command": list(command), **fields.pop("parameters", {})}
    return engine.submit_one("shell.run", parameters=parameters, retry={"max_attempts": 1}, **fields)


def test_command_output_becomes_the_log(engine: SystemDriver) -> None:
    script = "cat; echo problem >&2; echo $JOBWORKER_JOB $JOBWORKER_ATTEMPT $SECRET_OF_THE_WORKER.; id -u"
    # The command cannot read the environment of its supervising process either.
    script += "; tr '\\0' '\\n' </proc/$PPID/environ"
    execution = submit_command(engine, SH, "-c", script, parameters={"input": "given\n"})
    row = engine.wait_until_final(execution)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, {"exit_code": 0}), row.error
    assert wait_for_log_line(engine, execution, "given").logger == "stdout"
    assert (
        wait_for_log_line(engine, execution, "problem").logger,
        wait_for_log_line(engine, execution, "problem").level,
    ) == (
        "stderr",
        "WARNING",
    )
    wait_for_log_line(engine, execution, "shell.run 1 .")
    lines = [line.message for line in list_log_lines(engine, execution)]
    assert not [line for line in lines if "s3cret" in line or "REDIS" in line]


def test_failures_are_recorded_with_their_reason(engine: SystemDriver) -> None:
    executions = {
        "fails": submit_command(engine, SH, "-c", "exit 3"),
        "killed": submit_command(engine, SH, "-c", "kill -9 $$"),
        "not allowed": submit_command(engine, "/usr/bin/env"),
        "not a path": submit_command(engine, "sh", "-c", "true"),
        "no text": engine.submit_one("shell.run", parameters={"command": [SH, 3]}),
        "empty": engine.submit_one("shell.run", parameters={"command": []}),
    }
    rows = {name: engine.wait_until_final(execution) for name, execution in executions.items()}
    assert {row.state for row in rows.values()} == {ExecutionState.FAILED}
    assert {name: (get_error(row)["type"], get_error(row)["message"]) for name, row in rows.items()} == {
        "fails": ("CommandFailed", f"{SH}: it ended with exit code 3"),
        "killed": ("CommandFailed", f"{SH}: it was killed by SIGKILL"),
        "not allowed": ("Abort", "/usr/bin/env is not one of the programs that JOBWORKER_SHELL allows on this worker"),
        "not a path": ("Abort", "sh is not one of the programs that JOBWORKER_SHELL allows on this worker"),
        "no text": ("Abort", "command must be a list of texts: the program's absolute path, and its arguments"),
        "empty": ("Abort", "command must be a list of texts: the program's absolute path, and its arguments"),
    }


def test_time_limits_apply_on_every_pool(engine: SystemDriver) -> None:
    hard = submit_command(
        engine, SH, "-c", "trap '' TERM; echo begun; sleep 600 & while :; do sleep 0.1; done", time_limit=1
    )
    soft = submit_command(engine, SLEEP, "600", soft_time_limit=1, time_limit=30)
    tidy = submit_command(
        engine, SH, "-c", "trap 'echo tidy; exit 0' TERM; while :; do sleep 0.1; done", soft_time_limit=1
    )
    row = engine.wait_until_final(hard)
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "hard time limit exceeded")
    row = engine.wait_until_final(soft)
    assert (row.state, row.reason) == (ExecutionState.TIMED_OUT, "soft time limit exceeded")
    row = engine.wait_until_final(tidy)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, {"exit_code": 0})
    wait_for_log_line(engine, tidy, "tidy")


@pytest.mark.parametrize("stubborn", [True, False])
def test_running_command_is_cancelled(engine: SystemDriver, stubborn: bool) -> None:
    trap = "trap '' TERM; " if stubborn else ""
    execution = submit_command(engine, SH, "-c", f"{trap}echo begun; while :; do sleep 0.1; done")
    wait_for_log_line(engine, execution, "begun")
    engine.cancel(execution)
    row = engine.wait_until_final(execution)
    assert row.state is ExecutionState.CANCELLED
    by_force = "it did not stop by itself and was ended by SIGKILL"
    assert row.reason == (by_force if stubborn else "the program ended on request")
