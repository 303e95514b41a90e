"""Jobs that fail, snooze or abort."""

import datetime as dt

import celery.exceptions
from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from jobworker import Abort, Context, Retry, Snooze, current, job
from tests.jobs import log_activity

_QUICK_RETRY = {"strategy": "fixed", "delay": 0.05, "max_attempts": 3}


class ExcludedError(ConnectionError):
    """An error that is worth another attempt."""


@job(retry=_QUICK_RETRY)
def fail_until(context: Context, good_attempt: int = 99) -> int:
    """Fail until a given attempt, under a retry policy."""
    log_activity("start")
    if context.attempt < good_attempt:
        raise ExcludedError(f"attempt {context.attempt}")
    return context.attempt


@job(retry={**_QUICK_RETRY, "retry_on": ["OSError"], "not_on": ["tests.jobs.retries.ExcludedError"]})
def fail_with(kind: str) -> None:
    """Fail with an exception that the policy may or may not cover."""
    log_activity("start")
    raise {"ExcludedError": ExcludedError, "FileNotFoundError": FileNotFoundError, "ValueError": ValueError}[kind](kind)


@job(autoretry_for=(Exception,), retry_kwargs={"countdown": 3600}, max_retries=9)
def fail_with_celery_autoretry() -> None:
    """Fail with Celery's options, which would wait for an hour."""
    log_activity("start")
    raise ValueError("no")


@job(bind=True, retry={**_QUICK_RETRY, "delay": 3600})
def raise_retry_over_policy(self: Task, good_attempt: int = 2) -> int:
    """Retry by Celery's `retry`, whose countdown overrides the policy."""
    log_activity("start")
    if current().attempt < good_attempt:
        raise self.retry(countdown=0.05)
    return current().attempt


@job(retry={**_QUICK_RETRY, "delay": 3600})
def retry_at_time(context: Context) -> int:
    """Raise Retry with a delay that overrides the policy."""
    log_activity("start")
    if context.attempt < 2:
        raise Retry(delay=dt.timedelta(seconds=0.05), reason="the other side said so")
    return context.attempt


@shared_task(name="plain_retry_at_time", max_retries=1)
def plain_retry_at_time(why: str = "") -> None:
    """Raise Retry in every attempt, as a plain task."""
    log_activity("start")
    if why:
        raise Retry(delay=0.05) from KeyError(why)
    raise Retry(delay=0.05, reason="still not there")


@job(autoretry_for=(Exception,), max_retries=0)
def snooze(context: Context, times: int) -> int:
    """Snooze a number of times, and then succeed."""
    log_activity("start")
    if context.attempt <= times:
        raise Snooze(0.05, reason="the other side is closed")
    return context.attempt


@job(retry={**_QUICK_RETRY, "max_attempts": 2})
def snooze_then_fail(context: Context) -> None:
    """Snooze twice, and then fail."""
    log_activity("start")
    if context.attempt <= 2:
        raise Snooze(0)
    raise ValueError("after all")


@job(bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
def abort(self: Task) -> None:
    """Abort, in spite of Celery's autoretry."""
    log_activity("start")
    raise Abort("the account is closed")


@shared_task(name="plain_abort", autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
def plain_abort() -> None:
    """Abort, as a plain task with autoretry."""
    log_activity("start")
    raise Abort("the account is closed")


@job(retry=_QUICK_RETRY)
def abort_over_policy() -> None:
    """Abort, in spite of a retry policy."""
    log_activity("start")
    raise Abort("the account is closed")


@job(retry=_QUICK_RETRY)
def snooze_with_invalid_delay() -> None:
    """Snooze with an invalid delay."""
    log_activity("start")
    raise Snooze(-1)


@job(retry=_QUICK_RETRY, max_retries=1)
def raise_celery_retry(good_attempt: int = 2) -> int:
    """Raise Celery's Retry with a time instead of a delay."""
    log_activity("start")
    if current().attempt < good_attempt:
        raise celery.exceptions.Retry("soon", when=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.1))
    return current().attempt


@job(retry={**_QUICK_RETRY, "max_attempts": 2})
def raise_soft_limit() -> None:
    """Raise SoftTimeLimitExceeded."""
    log_activity("start")
    raise SoftTimeLimitExceeded
