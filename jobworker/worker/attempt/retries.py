"""Retry decisions: whether another attempt follows a failed one, and when."""

import datetime as dt
import functools
import json
import random
from collections.abc import Callable
from typing import Any

import celery.exceptions
from celery import Task
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, TimeLimitExceeded

from jobworker.declare import Abort, Retry, Snooze
from jobworker.domain.jobs import retry
from jobworker.domain.jobs.retry import RetryPolicy
from jobworker.worker.attempt.delivery import Delivery

#: Exceptions by which a job itself decides about another attempt.
_JOB_DECISIONS = (celery.exceptions.Retry, Ignore, Reject, Abort)


def get_policy(delivery: Delivery) -> RetryPolicy | None:
    """Return the retry policy that replaces the task's own options, if there is one."""
    described = delivery.policies.get("retry")
    return _parse_policy(json.dumps(described)) if described else None


@functools.lru_cache(maxsize=1000)
def _parse_policy(described: str) -> RetryPolicy:
    return retry.parse(json.loads(described))


def compute_default_delay(task: Task, delivery: Delivery) -> float:
    """Return the wait (s) before the next attempt of a job that requests one without a delay."""
    policy = get_policy(delivery)
    if policy is None:
        return float(task.default_retry_delay)
    return policy.compute_wait(task.request.retries + 1, random.random())


def get_max_retries(task: Task, delivery: Delivery, max_retries: int | None = None) -> int | None:
    """Return the maximum number of retries.

    It is set by the execution's `max_attempts` if that differs from the task's, else by the call, else by the task.
    """
    own = None if task.max_retries is None else task.max_retries + 1
    if delivery.max_attempts is not None and delivery.max_attempts != own:
        return delivery.max_attempts - 1
    limit: int | None = task.max_retries if max_retries is None else max_retries
    return limit


def is_exhausted(task: Task, max_retries: int | None) -> bool:
    """Return whether all of `max_retries` retries are used up."""
    return max_retries is not None and task.request.retries >= max_retries


def decide_retry(task: Task, delivery: Delivery, error: Exception) -> Exception:
    """Return what the attempt that raised `error` ends with: a retry with its wait (s), or a final error."""
    if isinstance(error, Retry):
        return _apply_requested_retry(task, delivery, error)
    if isinstance(error, celery.exceptions.Retry) and not isinstance(error, Snooze):
        error.when = to_seconds(error.when, task)
    policy = get_policy(delivery)
    if policy is None or isinstance(error, _JOB_DECISIONS):
        return error
    names = _list_exception_names(type(error))
    wait = policy.compute_next_wait(names, task.request.retries, get_max_retries(task, delivery), random.random())
    if wait is None:
        return error
    again: Exception = celery.exceptions.Retry(exc=error, when=wait)
    again.__cause__ = error
    return again


def _apply_requested_retry(task: Task, delivery: Delivery, requested: Retry) -> Exception:
    """Return the retry that the job requested, or the final error if no attempt is left."""
    most = get_max_retries(task, delivery)
    if is_exhausted(task, most):
        return (
            requested.__cause__
            if isinstance(requested.__cause__, Exception)
            else make_exhausted_error(most, requested.reason)
        )
    if requested.when is None:
        requested.when = compute_default_delay(task, delivery)
    return requested


def compute_delay_after_hard_limit(task: Task, delivery: Delivery, retries: int) -> float | None:
    """Return the wait (s) before another attempt when the hard limit ended one; None if no attempt follows.

    `retries` is the number of retries so far. Only a policy can cause this retry, because the job is killed and raises
    nothing.
    """
    policy = get_policy(delivery)
    if policy is None:
        return None
    return policy.compute_next_wait(
        _list_exception_names(TimeLimitExceeded), retries, get_max_retries(task, delivery), random.random()
    )


def _list_exception_names(error_class: type[BaseException]) -> list[str]:
    """Return the names of an exception's classes, with `celery.` aliases for billiard's time limits."""
    names = retry.list_exception_names(error_class)
    return names + [name.replace("billiard.", "celery.") for name in names if name.startswith("billiard.exceptions.")]


def make_exhausted_error(max_retries: int | None, reason: str | None = None) -> MaxRetriesExceededError:
    """Return the error of a job that requests another attempt when none is left."""
    message = f"no attempt is left after {(max_retries or 0) + 1}"
    return MaxRetriesExceededError(f"{message}: {reason}" if reason else message)


def to_seconds(when: Any, task: Task) -> float:
    """Return the delay (s) of a retry requested as a number or a time. Raises `ValueError` if it is too long."""
    if isinstance(when, dt.datetime):
        when = max(0.0, (when - task.app.now()).total_seconds())
    wait = float(when or 0)
    if not wait <= retry.MAX_DELAY_SECONDS:  # Refuses NaN, too.
        raise ValueError(f"a retry may be at most {retry.MAX_DELAY_SECONDS / 86400:g} days away, not {wait:g} s")
    return wait


def override_autoretry(task: Task, get_delivery: Callable[[], Delivery | None]) -> None:
    """Bypass Celery's `autoretry_for` wrapper around the function of `task` where a policy decides."""
    original: Callable[..., Any] | None = getattr(task, "_orig_run", None)
    if original is None:
        return
    wrapped = task.run

    @functools.wraps(wrapped)
    def run(*args: Any, **kwargs: Any) -> Any:
        delivery = None if task.request.called_directly else get_delivery()
        decides = delivery is not None and get_policy(delivery) is not None
        return (original if decides else wrapped)(*args, **kwargs)

    task.run = run
