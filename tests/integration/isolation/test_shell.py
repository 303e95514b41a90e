"""`shell.run` with real workers."""

import shutil
from typing import Any

import pytest

from jobworker.domain.execution import State
from tests.engine import Engine
from tests.integration.isolation.conftest import error_of, log_of, said

SH, SLEEP = (shutil.which(name) or name for name in ("sh", "sleep"))

#: What the worker of this module allows.
SETTINGS = {"JOBWORKER_SHELL": f"{SH}, {SLEEP}", "SECRET_OF_THE_WORKER": "s3cret"}


def shell(engine: Engine, *command: str, **fields: Any) -> str:
    """Submit a command."""
    parameters = {"command": list(command), **fields.pop("parameters", {})}
    return engine.submit_one("shell.run", parameters=parameters, retry={"max_attempts": 1}, **fields)


def test_a_command_runs_and_its_output_is_the_log(engine: Engine) -> None:
    script = "cat; echo problem >&2; echo $JOBWORKER_JOB $JOBWORKER_ATTEMPT $SECRET_OF_THE_WORKER.; id -u"
    # Nor can it read the environment of the process that keeps it.
    script += "; tr '\\0' '\\n' </proc/$PPID/environ"
    execution = shell(engine, SH, "-c", script, parameters={"input": "given\n"})
    row = engine.wait_until_final(execution)
    assert (row.state, row.result) == (State.SUCCEEDED, {"exit_code": 0}), row.error
    assert said(engine, execution, "given").logger == "stdout"
    assert (said(engine, execution, "problem").logger, said(engine, execution, "problem").level) == (
        "stderr",
        "WARNING",
    )
    said(engine, execution, "shell.run 1 .")
    lines = [line.message for line in log_of(engine, execution)]
    assert not [line for line in lines if "s3cret" in line or "REDIS" in line]


def test_failures_say_why(engine: Engine) -> None:
    wanted = {
        "fails": shell(engine, SH, "-c", "exit 3"),
        "killed": shell(engine, SH, "-c", "kill -9 $$"),
        "not allowed": shell(engine, "/usr/bin/env"),
        "not a path": shell(engine, "sh", "-c", "true"),
        "no text": engine.submit_one("shell.run", parameters={"command": [SH, 3]}),
        "empty": engine.submit_one("shell.run", parameters={"command": []}),
    }
    rows = {name: engine.wait_until_final(execution) for name, execution in wanted.items()}
    assert {row.state for row in rows.values()} == {State.FAILED}
    assert {name: (error_of(row)["type"], error_of(row)["message"]) for name, row in rows.items()} == {
        "fails": ("CommandFailed", f"{SH}: it ended with exit code 3"),
        "killed": ("CommandFailed", f"{SH}: it was killed by SIGKILL"),
        "not allowed": ("Abort", "/usr/bin/env is none of the programs that JOBWORKER_SHELL allows on this worker"),
        "not a path": ("Abort", "sh is none of the programs that JOBWORKER_SHELL allows on this worker"),
        "no text": ("Abort", "command must be a list of texts: the program's absolute path, and its arguments"),
        "empty": ("Abort", "command must be a list of texts: the program's absolute path, and its arguments"),
    }


def test_time_limits_hold_on_every_pool(engine: Engine) -> None:
    hard = shell(engine, SH, "-c", "trap '' TERM; echo begun; sleep 600 & while :; do sleep 0.1; done", time_limit=1)
    soft = shell(engine, SLEEP, "600", soft_time_limit=1, time_limit=30)
    tidy = shell(engine, SH, "-c", "trap 'echo tidy; exit 0' TERM; while :; do sleep 0.1; done", soft_time_limit=1)
    row = engine.wait_until_final(hard)
    assert (row.state, row.reason) == (State.TIMED_OUT, "hard time limit exceeded")
    row = engine.wait_until_final(soft)
    assert (row.state, row.reason) == (State.TIMED_OUT, "soft time limit exceeded")
    row = engine.wait_until_final(tidy)
    assert (row.state, row.result) == (State.SUCCEEDED, {"exit_code": 0})
    said(engine, tidy, "tidy")


@pytest.mark.parametrize("stubborn", [True, False])
def test_cancelled_while_it_runs(engine: Engine, stubborn: bool) -> None:
    trap = "trap '' TERM; " if stubborn else ""
    execution = shell(engine, SH, "-c", f"{trap}echo begun; while :; do sleep 0.1; done")
    said(engine, execution, "begun")
    engine.cancel(execution)
    row = engine.wait_until_final(execution)
    assert row.state is State.CANCELLED
    by_force = "it did not stop by itself and was ended by SIGKILL"
    assert row.reason == (by_force if stubborn else "the program was told to end, and did")
