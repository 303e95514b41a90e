"""Jobs that use Python's own processes: `multiprocessing`, `concurrent.futures` and `os.fork`."""

import concurrent.futures
import logging
import multiprocessing
import os
import sys
import time
from typing import Any

from jobworker import Context, job
from tests.jobs import log_activity
from tests.jobs.limits import log_children

_START_METHODS = ("fork", "spawn", "forkserver")


def square(number: int) -> int:
    """Return the square of a number."""
    return number * number


def log_from_child() -> None:
    """Log and print a line, called in another process."""
    logging.getLogger("child").warning("logged in a child")
    print("printed in a child")


def _sleep() -> None:
    time.sleep(120)


def _compute_squares(start: Any) -> dict[str, Any]:
    process = start.Process(target=square, args=(3,))
    process.start()
    process.join()
    with start.Pool(1) as pool, concurrent.futures.ProcessPoolExecutor(1, start) as executor:
        return {
            "process": process.exitcode,
            "pool": pool.map(square, range(3)),
            "executor": list(executor.map(square, range(3))),
        }


@job(max_retries=0)
def compute_in_processes() -> dict[str, Any]:
    """Compute in processes of every start method."""
    return {method: _compute_squares(multiprocessing.get_context(method)) for method in _START_METHODS}


@job(isolation={"mode": "process"}, max_retries=0)
def compute_in_isolated_processes() -> dict[str, Any]:
    """Compute in processes of every start method, in an isolated job."""
    return {method: _compute_squares(multiprocessing.get_context(method)) for method in _START_METHODS}


@job
def log_in_child(context: Context, lines: int) -> None:
    """Log in this process and in a forked child."""
    _log_with_child(context, lines)


@job(isolation={"mode": "process"})
def log_in_isolated_child(context: Context, lines: int) -> None:
    """Log in this process and in a forked child, in an isolated job."""
    _log_with_child(context, lines)


def _log_with_child(context: Context, lines: int) -> None:
    for number in range(lines):
        context.log.info("line %d", number)
    child = multiprocessing.get_context("fork").Process(target=log_from_child)
    child.start()
    child.join()


@job
def leave_processes(stays: bool) -> None:
    """Start a process by each start method, and return at once, or never."""
    for method in _START_METHODS:
        process: Any = multiprocessing.get_context(method).Process(target=_sleep)  # type: ignore[attr-defined]
        process.start()
        log_children(process.pid)
    log_activity("start")
    while stays:
        time.sleep(0.1)


@job(max_retries=0)
def fork(how: str) -> int:
    """Fork a child that also leaves the job's function, and return its exit status."""
    return _fork(how)


@job(isolation={"mode": "process"}, max_retries=0)
def fork_isolated(how: str) -> int:
    """Fork a child that also leaves the job's function, in an isolated job."""
    return _fork(how)


def _fork(how: str) -> int:
    log_activity("start")
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "raise":
        raise ValueError("raised in the child")
    if how == "exit":
        sys.exit(3)
    return 7
