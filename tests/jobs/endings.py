"""Jobs with every outcome except plain success."""

import asyncio
import os
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject

from jobworker import job
from tests.jobs import log_activity


@job
def raise_reject(requeue: bool) -> None:
    """Raise Celery's Reject."""
    log_activity("start")
    raise Reject("not me", requeue=requeue)


@job
def raise_ignore() -> None:
    """Raise Celery's Ignore."""
    log_activity("start")
    raise Ignore


@job
def exit_process() -> None:
    """End the process without a signal."""
    log_activity("start")
    os._exit(7)


@job
def raise_memory_error() -> None:
    """Raise MemoryError, which Celery treats as an error of the worker."""
    log_activity("start")
    raise MemoryError("no room")


@job
def raise_keyboard_interrupt() -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    log_activity("start")
    raise KeyboardInterrupt


@job
def raise_cancelled_error() -> None:
    """Raise asyncio's CancelledError, which is not an `Exception`."""
    log_activity("start")
    raise asyncio.CancelledError


class NotPicklable(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(lambda: None)
        self.parts = (one, two)

    def __str__(self) -> str:
        return "with a function inside"


@job
def raise_unpicklable() -> None:
    """Fail with it."""
    log_activity("start")
    raise NotPicklable(1, 2)


class NoException(BaseException):
    """A BaseException that cannot be unpickled, because its arguments do not recreate it."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)
        self.two = two


@job
def raise_base_exception() -> None:
    """Fail with it."""
    log_activity("start")
    raise NoException("one", "two")


class _UnstartableTask(Task):
    """A task whose `before_start` raises."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise RuntimeError("not ready")


@job(base=_UnstartableTask)
def fail_before_start() -> None:
    """Fail before the job starts."""
    log_activity("start")


@job(rate_limit="30/m")
def run_twice_a_minute() -> str:
    """Run under Celery's rate limit, which holds the second execution back for two seconds."""
    log_activity("start")
    return "rare"


@job(rate_limit="1/h")
def run_hourly() -> str:
    """Run under Celery's rate limit, which holds the second execution back for an hour."""
    log_activity("start")
    return "very rare"
