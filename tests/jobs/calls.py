"""Jobs that are called from Python, and one job that calls others."""

import datetime as dt
from typing import Any

from celery import chain, group, shared_task

from jobworker import Context, current, job
from tests.jobs import log_activity


@job(queue="background", priority=7, retry={"strategy": "fixed", "delay": 0.05, "max_attempts": 3})
def called(context: Context, number: int, good_attempt: int = 1) -> int:
    """Log the call, and fail until a given attempt."""
    log_activity("start")
    context.log.info("called with %d", number)
    if context.attempt < good_attempt:
        raise ValueError(f"attempt {context.attempt}")
    return number * 10


@job(retry={"strategy": "fixed", "delay": 0.05, "max_attempts": 3})
def summed(*numbers: int, good_attempt: int = 1) -> int:
    """Return the sum of any number of numbers."""
    if current().attempt < good_attempt:
        raise ValueError("not yet")
    return sum(numbers)


@shared_task(name="plain_step", bind=True, max_retries=2)
def plain_step(self: Any, before: int, add: int, good_attempt: int = 1) -> int:
    """Add to the previous result, as a plain task in a chain."""
    if self.request.retries + 1 < good_attempt:
        raise self.retry(countdown=0.05)
    return before + add


@shared_task(name="return_weekday")
def return_weekday(day: dt.datetime) -> int:
    """Return the weekday of a value that only Celery's JSON can carry."""
    return day.isoweekday()


@shared_task(name="die_once")
def die_once() -> int:
    """Kill the own process in the first attempt."""
    import os
    import signal

    log_activity("start")
    if current().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current().attempt


@job
def caller() -> str:
    """Call other jobs by `delay`, in a group and in a chain."""
    called.delay(1)
    group(called.s(number) for number in (2, 3))()
    chain(plain_step.s(1, 1, good_attempt=2), plain_step.s(10), plain_step.s(100))()
    return current().execution_id
