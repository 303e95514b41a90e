"""Jobs with every outcome except plain success."""

import asyncio
import os
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject

from jobworker import job
from tests.jobs import log_activity


@job
def rejects(requeue: bool) -> None:
    """Raise Celery's Reject."""
    log_activity("start")
    raise Reject("not me", requeue=requeue)


@job
def ignores() -> None:
    """Raise Celery's Ignore."""
    log_activity("start")
    raise Ignore


@job
def leaves_at_once() -> None:
    """End the process without a signal."""
    log_activity("start")
    os._exit(7)


@job
def runs_out_of_memory() -> None:
    """Raise MemoryError, which Celery treats as an error of the worker."""
    log_activity("start")
    raise MemoryError("no room")


@job
def is_interrupted() -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    log_activity("start")
    raise KeyboardInterrupt


@job
def cancels_itself() -> None:
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
def raises_what_cannot_be_pickled() -> None:
    """Fail with it."""
    log_activity("start")
    raise NotPicklable(1, 2)


class NoException(BaseException):
    """A BaseException that cannot be unpickled, because its arguments do not recreate it."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)
        self.two = two


@job
def raises_no_exception() -> None:
    """Fail with it."""
    log_activity("start")
    raise NoException("one", "two")


class _UnstartableTask(Task):
    """A task whose `before_start` raises."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise RuntimeError("not ready")


@job(base=_UnstartableTask)
def is_never_ready() -> None:
    """Fail before the job starts."""
    log_activity("start")


@job(rate_limit="30/m")
def rarely() -> str:
    """Run under Celery's rate limit, which holds the second execution back for two seconds."""
    log_activity("start")
    return "rare"


@job(rate_limit="1/h")
def hourly() -> str:
    """Run under Celery's rate limit, which holds the second execution back for an hour."""
    log_activity("start")
    return "very rare"
