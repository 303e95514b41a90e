"""What follows an attempt that failed: another one, and when, or none."""

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
from jobworker.domain import retry
from jobworker.domain.retry import RetryPolicy
from jobworker.worker.delivery import Delivery

#: What a job raises to say itself how it goes on.
_DECIDED = (celery.exceptions.Retry, Ignore, Reject, Abort)


def policy_of(delivery: Delivery) -> RetryPolicy | None:
    """The policy that decides instead of the task's own options, if there is one."""
    described = delivery.policies.get("retry")
    return _parse(json.dumps(described)) if described else None


@functools.lru_cache(maxsize=1000)
def _parse(described: str) -> RetryPolicy:
    return retry.parse(json.loads(described))


def default_wait(task: Task, delivery: Delivery) -> float:
    """The wait (s) before the next attempt when a job asks for one and does not say when."""
    policy = policy_of(delivery)
    if policy is None:
        return float(task.default_retry_delay)
    return policy.compute_wait(task.request.retries + 1, random.random())


def limit(task: Task, delivery: Delivery, max_retries: int | None = None) -> int | None:
    """How many retries there may be: as the job or the execution says, else as the call does, else the task."""
    own = None if task.max_retries is None else task.max_retries + 1
    if delivery.max_attempts is not None and delivery.max_attempts != own:
        return delivery.max_attempts - 1
    found: int | None = task.max_retries if max_retries is None else max_retries
    return found


def is_exhausted(task: Task, most: int | None) -> bool:
    """Whether all of `most` retries are used up."""
    return most is not None and task.request.retries >= most


def settle(task: Task, delivery: Delivery, error: Exception) -> Exception:
    """What the attempt that raised `error` ends with: a retry whose wait (s) is known, or an error that is final."""
    if isinstance(error, Retry):
        return _asked(task, delivery, error)
    if isinstance(error, celery.exceptions.Retry) and not isinstance(error, Snooze):
        error.when = seconds(error.when, task)
    policy = policy_of(delivery)
    if policy is None or isinstance(error, _DECIDED):
        return error
    names = _names_of(type(error))
    wait = policy.compute_next_wait(names, task.request.retries, limit(task, delivery), random.random())
    if wait is None:
        return error
    again: Exception = celery.exceptions.Retry(exc=error, when=wait)
    again.__cause__ = error
    return again


def _asked(task: Task, delivery: Delivery, asked: Retry) -> Exception:
    """The job itself wants another attempt."""
    most = limit(task, delivery)
    if is_exhausted(task, most):
        return asked.__cause__ if isinstance(asked.__cause__, Exception) else exhausted(most, asked.reason)
    if asked.when is None:
        asked.when = default_wait(task, delivery)
    return asked


def after_hard_limit(task: Task, delivery: Delivery, used: int) -> float | None:
    """The wait (s) before another attempt when the hard limit ended one; None: there is none. `used`: retries so far.

    The job was not asked, so only a policy can want it.
    """
    policy = policy_of(delivery)
    if policy is None:
        return None
    return policy.compute_next_wait(_names_of(TimeLimitExceeded), used, limit(task, delivery), random.random())


def _names_of(kind: type[BaseException]) -> list[str]:
    """Celery's time limits are billiard's, which nobody imports from there."""
    names = retry.names_of(kind)
    return names + [name.replace("billiard.", "celery.") for name in names if name.startswith("billiard.exceptions.")]


def exhausted(most: int | None, reason: str | None = None) -> MaxRetriesExceededError:
    """The error of a job that wants another attempt when there is none left."""
    told = f"no attempt is left after {(most or 0) + 1}"
    return MaxRetriesExceededError(f"{told}: {reason}" if reason else told)


def seconds(when: Any, task: Task) -> float:
    """How long (s) until another attempt that Celery was asked for; it may name a moment. Raises `ValueError`."""
    if isinstance(when, dt.datetime):
        when = max(0.0, (when - task.app.now()).total_seconds())
    wait = float(when or 0)
    if not wait <= retry.LONGEST_DELAY:  # Nor is NaN.
        raise ValueError(f"a retry may be at most {retry.LONGEST_DELAY / 86400:g} days away, not {wait:g} s")
    return wait


def let_policies_decide(task: Task, read: Callable[[], Delivery | None]) -> None:
    """Celery's `autoretry_for` has wrapped the function of `task`: it steps aside where a policy decides."""
    original: Callable[..., Any] | None = getattr(task, "_orig_run", None)
    if original is None:
        return
    wrapped = task.run

    @functools.wraps(wrapped)
    def run(*args: Any, **kwargs: Any) -> Any:
        delivery = None if task.request.called_directly else read()
        decides = delivery is not None and policy_of(delivery) is not None
        return (original if decides else wrapped)(*args, **kwargs)

    task.run = run
