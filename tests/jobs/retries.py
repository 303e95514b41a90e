"""Jobs that fail, put themselves off and give up."""

import datetime as dt

import celery.exceptions
from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

from jobworker import Abort, Context, Retry, Snooze, current, job
from tests.jobs import log_activity

_QUICK_RETRY = {"strategy": "fixed", "delay": 0.05, "max_attempts": 3}


class NotYet(ConnectionError):
    """Worth another attempt."""


@job(retry=_QUICK_RETRY)
def fails_until(context: Context, good_attempt: int = 99) -> int:
    """Fail with a policy of its own."""
    log_activity("start")
    if context.attempt < good_attempt:
        raise NotYet(f"attempt {context.attempt}")
    return context.attempt


@job(retry={**_QUICK_RETRY, "retry_on": ["OSError"], "not_on": ["tests.jobs.retries.NotYet"]})
def fails_with(kind: str) -> None:
    """Fail in a way that the policy covers, or does not."""
    log_activity("start")
    raise {"NotYet": NotYet, "FileNotFoundError": FileNotFoundError, "ValueError": ValueError}[kind](kind)


@job(autoretry_for=(Exception,), retry_kwargs={"countdown": 3600}, max_retries=9)
def fails_as_celery_says() -> None:
    """Fail with Celery's options, which would wait for an hour."""
    log_activity("start")
    raise ValueError("no")


@job(bind=True, retry={**_QUICK_RETRY, "delay": 3600})
def asks_in_spite_of_its_policy(self: Task, good_attempt: int = 2) -> int:
    """Ask with Celery's words; what it says goes before the policy."""
    log_activity("start")
    if current().attempt < good_attempt:
        raise self.retry(countdown=0.05)
    return current().attempt


@job(retry={**_QUICK_RETRY, "delay": 3600})
def says_when(context: Context) -> int:
    """Know better than the policy when another attempt makes sense."""
    log_activity("start")
    if context.attempt < 2:
        raise Retry(delay=dt.timedelta(seconds=0.05), reason="the other side said so")
    return context.attempt


@shared_task(name="plain_says_when", max_retries=1)
def plain_says_when(why: str = "") -> None:
    """Ask for another attempt for ever, as a plain task."""
    log_activity("start")
    if why:
        raise Retry(delay=0.05) from KeyError(why)
    raise Retry(delay=0.05, reason="still not there")


@job(autoretry_for=(Exception,), max_retries=0)
def puts_itself_off(context: Context, times: int) -> int:
    """Not now, and not an attempt either."""
    log_activity("start")
    if context.attempt <= times:
        raise Snooze(0.05, reason="the other side is closed")
    return context.attempt


@job(retry={**_QUICK_RETRY, "max_attempts": 2})
def puts_itself_off_and_fails(context: Context) -> None:
    """Be put off twice, and fail then."""
    log_activity("start")
    if context.attempt <= 2:
        raise Snooze(0)
    raise ValueError("after all")


@job(bind=True, autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
def gives_up(self: Task) -> None:
    """Say that no other attempt would help."""
    log_activity("start")
    raise Abort("the account is closed")


@shared_task(name="plain_gives_up", autoretry_for=(Exception,), retry_kwargs={"countdown": 0})
def plain_gives_up() -> None:
    """The same as a plain task."""
    log_activity("start")
    raise Abort("the account is closed")


@job(retry=_QUICK_RETRY)
def gives_up_with_a_policy() -> None:
    """The same with a policy that would try again."""
    log_activity("start")
    raise Abort("the account is closed")


@job(retry=_QUICK_RETRY)
def is_put_off_wrongly() -> None:
    """Say nonsense."""
    log_activity("start")
    raise Snooze(-1)


@job(retry=_QUICK_RETRY, max_retries=1)
def raises_what_celery_raises(good_attempt: int = 2) -> int:
    """Raise Celery's own exception with a moment instead of a wait."""
    log_activity("start")
    if current().attempt < good_attempt:
        raise celery.exceptions.Retry("soon", when=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.1))
    return current().attempt


@job(retry={**_QUICK_RETRY, "max_attempts": 2})
def is_too_slow() -> None:
    """Be told that it is late."""
    log_activity("start")
    raise SoftTimeLimitExceeded
