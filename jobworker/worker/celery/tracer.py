"""The tracer that a pool runs for each job: Celery's own, which also returns the report of the attempt.

Celery's result contains the job's result as shortened text, and no text for an ignored attempt; the report is complete.
The report reaches the worker's parent process with the result, and is sent from there.
"""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery.app import trace
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.serialization import get_pickleable_etype, get_pickleable_exception

from jobworker.worker.attempt import output_capture

#: Exceptions that Celery raises in the worker's own thread, where solo runs jobs.
_WORKER_EXITS = (WorkerShutdown, WorkerTerminate)

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Kind of the closing event, and its data as JSON.
Report = tuple[str, str]


class _ReportStorage(threading.local):
    report: Report | None = None


_storage = _ReportStorage()


def store_report(report: Report) -> None:
    """Store the report of the attempt that this thread runs."""
    _storage.report = report


def run_fast(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """Return (failed, result, runtime, report) of one attempt, in a process that was set up for speed."""
    return run_with_report(trace.fast_trace_task, arguments)


def run_plain(*arguments: Any) -> tuple[bool, Any, float, Report | None]:
    """Return (failed, result, runtime, report) of one attempt, in any other process."""
    return run_with_report(trace.trace_task_ret, arguments)


def run_with_report(tracer: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any, float, Report | None]:
    """Return (failed, result, runtime, report) of one attempt by `tracer`, which returns (failed, result, runtime)."""
    _storage.report = None
    try:
        failed, answer, runtime = run_in_one_process(lambda: tracer(*arguments))
    except BaseException as error:
        # SystemExit, asyncio's cancellation, …: they end the job, not the process or thread.
        if terminate_handler_fired() or isinstance(error, _WORKER_EXITS):
            raise
        # A thread that raises would never return a result.
        return True, _describe_exception(), 0.0, _get_report()
    return failed, answer, runtime, _get_report()


def run_in_one_process(body: Callable[[], _T]) -> _T:
    """Return the result of `body`, or raise its error, in this process; a process that `body` has forked ends here.

    Otherwise both would report the attempt, and take the next one from the same pipe.
    """
    pid = os.getpid()
    try:
        value = body()
    except BaseException as error:
        if os.getpid() != pid:
            _exit_fork(error)
        raise
    if os.getpid() != pid:
        _exit_fork(None)
    return value


def _exit_fork(error: BaseException | None) -> None:
    """End this process as Python ends one with the uncaught exception `error`."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        _log.error("a process that the job has forked has failed", exc_info=error)
    output_capture.flush_lines()
    os._exit(status)


def _describe_exception() -> ExceptionInfo:
    """Return the current exception in a form that can be pickled; an unpicklable one would end the worker."""
    described = ExceptionInfo()
    described.exception = get_pickleable_exception(getattr(described.exception, "exc", described.exception))
    described.type = get_pickleable_etype(described.type)
    return described


def _get_report() -> Report | None:
    return _storage.report
