"""Processes and commands whose output cannot be written: the disk is full, or the reader of the pipe has ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from jobworker.domain.executions.execution import ExecutionState
from jobworker.transport.beat import beat_keys
from tests.engine import Engine
from tests.polling import wait_until


def test_processes_run_with_their_output_on_a_full_disk(engine: Engine) -> None:
    engine.output = Path("/dev/full")
    processes = [engine.start_beat(), *engine.start()]
    assert engine.wait_until_final(engine.submit_one("noop")).state is ExecutionState.SUCCEEDED
    with redis.Redis.from_url(engine.redis_url, decode_responses=True) as client:
        wait_until(lambda: beat_keys.get_last_tick(client), what="beat to tick")
    assert all(process.is_alive() for process in processes)


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [("pipe", 141, ""), ("/dev/full", 1, "error: the output or a file cannot be written: No space left on device\n")],
)
def test_command_with_unwritable_output_exits_without_traceback(
    sqlite_url: str, output: str, code: int, said: str
) -> None:
    with contextlib.ExitStack() as files:
        if output == "pipe":
            reader, writer = os.pipe()
            os.close(reader)
            stdout = files.enter_context(open(writer, "wb"))
        else:
            stdout = files.enter_context(open(output, "wb"))
        done = subprocess.run(
            [sys.executable, "-m", "jobworker.cli", "db", "upgrade"],
            env={**os.environ, "JOBWORKER_DATABASE_URL": sqlite_url},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (code, said)
