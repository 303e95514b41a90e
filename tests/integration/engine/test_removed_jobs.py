"""Removal of a job from the code that real workers import."""

import signal
from pathlib import Path

import pytest

from jobworker.domain.errors import JobRemoved
from jobworker.domain.executions.execution import ExecutionState
from tests.engine import Engine
from tests.polling import wait_until

_JOB = """
from jobworker import job

@job
def {name}() -> str:
    return "done"
"""


def test_job_of_a_removed_module_rejects_submissions_after_the_restart(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site_jobs"
    package.mkdir()
    for name in ("__init__", "stays", "goes"):
        (package / f"{name}.py").write_text("" if name == "__init__" else _JOB.format(name=name))
    settings = {"JOBWORKER_TASKS": "site_jobs", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    engine.start_relay()
    worker = engine.start_worker("--pool", "solo", **settings)
    engine.wait_until_ready("goes")
    assert engine.wait_until_final(engine.submit_one("goes")).result == "done"
    worker.terminate(signal.SIGTERM)
    (package / "goes.py").unlink()
    waiting = engine.submit_one("goes")  # No worker is up, so the removal of the code is not known yet.
    engine.start_worker("--pool", "solo", **settings)
    engine.wait_until_ready("stays")

    def refused() -> bool:
        try:
            engine.submit_one("goes")
        except JobRemoved as error:
            return "no worker declares its task goes" in error.detail
        return False

    wait_until(refused, what="the job to be refused")
    assert engine.wait_until_final(engine.submit_one("stays")).result == "done"
    called = engine.run_python("from jobworker.celery import app; print(app.send_task('goes').id)")
    row = engine.wait_until_known_and_final(called)
    assert (row.state, row.error and row.error["type"]) == (ExecutionState.FAILED, "JobRemoved")
    assert engine.get(waiting).state is ExecutionState.QUEUED
