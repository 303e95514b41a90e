"""Jobs that kill the whole worker, jobs that must not run twice, and jobs that fail for a while."""

import os
import signal
from pathlib import Path

from jobworker import job
from tests.jobs import log_activity

#: Process id of the worker's main process, also in its forked children.
_WORKER_PID = os.getpid()


@job
def poison() -> None:
    """Kill the worker immediately, in every attempt."""
    log_activity("start")
    os.kill(_WORKER_PID, signal.SIGKILL)


@job(max_retries=0)
def crash_without_file(path: str) -> str:
    """Fail unless a file exists."""
    log_activity("start")
    if not Path(path).exists():
        raise ConnectionError(f"no {path}")
    return "mended"


@job(on_worker_lost="fail")
def run_once() -> str:
    """Run at most once."""
    log_activity("start")
    log_activity("end")
    return "done"


@job(on_worker_lost="fail")
def run_once_until_file(path: str) -> str:
    """Run until a file appears, at most once."""
    log_activity("start")
    while not Path(path).exists():
        signal.sigtimedwait([], 0.02)
    log_activity("end")
    return "done"
