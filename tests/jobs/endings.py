"""Jobs that end in every way there is, beside those that end well."""

import asyncio
import os
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject

from jobworker import job
from tests.jobs import log_activity


@job
def rejects(requeue: bool) -> None:
    """Use Celery's word for "not me"."""
    log_activity("start")
    raise Reject("not me", requeue=requeue)


@job
def ignores() -> None:
    """Use Celery's word for "say nothing of me"."""
    log_activity("start")
    raise Ignore


@job
def leaves_at_once() -> None:
    """Take the process down without a signal."""
    log_activity("start")
    os._exit(7)


@job
def runs_out_of_memory() -> None:
    """Raise what Celery takes for the worker's own trouble."""
    log_activity("start")
    raise MemoryError("no room")


@job
def is_interrupted() -> None:
    """Raise what Ctrl-C raises."""
    log_activity("start")
    raise KeyboardInterrupt


@job
def cancels_itself() -> None:
    """Let asyncio's cancellation escape: no `Exception`."""
    log_activity("start")
    raise asyncio.CancelledError


class NotPicklable(Exception):
    """An exception that no process can send to another."""

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
    """Neither an `Exception` nor fit to be sent to another process: it cannot be made again from its arguments."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)
        self.two = two


@job
def raises_no_exception() -> None:
    """Fail with it."""
    log_activity("start")
    raise NoException("one", "two")


class _UnstartableTask(Task):
    """A task that Celery cannot even start."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        raise RuntimeError("not ready")


@job(base=_UnstartableTask)
def is_never_ready() -> None:
    """Fail before it begins."""
    log_activity("start")


@job(rate_limit="30/m")
def rarely() -> str:
    """Have Celery hold the second one back for two seconds."""
    log_activity("start")
    return "rare"


@job(rate_limit="1/h")
def hourly() -> str:
    """Have Celery hold the second one back for good."""
    log_activity("start")
    return "very rare"
