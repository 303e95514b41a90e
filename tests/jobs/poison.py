"""Jobs that take the whole worker with them, jobs that must not run twice, and jobs that fail for a while."""

import os
import signal
from pathlib import Path

from jobworker import job
from tests.jobs import log_activity

#: The worker's own process, also where that forks.
_WORKER_PID = os.getpid()


@job
def poison() -> None:
    """Kill the worker at once, every time."""
    log_activity("start")
    os.kill(_WORKER_PID, signal.SIGKILL)


@job(max_retries=0)
def breaks_without(path: str) -> str:
    """Fail unless a file is there."""
    log_activity("start")
    if not Path(path).exists():
        raise ConnectionError(f"no {path}")
    return "mended"


@job(on_worker_lost="fail")
def once() -> str:
    """Run, and never twice."""
    log_activity("start")
    log_activity("end")
    return "done"


@job(on_worker_lost="fail")
def once_until(path: str) -> str:
    """Run until a file appears, and never twice."""
    log_activity("start")
    while not Path(path).exists():
        signal.sigtimedwait([], 0.02)
    log_activity("end")
    return "done"
