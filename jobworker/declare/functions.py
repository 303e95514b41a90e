"""`@job`: a function becomes a job."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery import shared_task

from jobworker.declare import celery_options
from jobworker.declare.context import Context, current
from jobworker.domain import limits, parameters, policies
from jobworker.domain import schedule as schedules
from jobworker.domain.errors import FieldError, Misconfigured
from jobworker.domain.execution import DEFAULT_PRIORITY, PRIORITIES
from jobworker.domain.job import DEFAULT_QUEUE, QUEUE, OnWorkerLost


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What `@job` says beyond Celery's own task options; kept on the task as `job_options`."""

    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY
    schedule: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    policies: Mapping[str, Any] = field(default_factory=dict)


def job(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    on_worker_lost: str = "retry",
    schedule: Mapping[str, Any] | None = None,
    tags: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Make a function a job. Works bare (`@job`) and with options (`@job(queue="background")`).

    The job is called as the function unless `name` says otherwise; its parameters are read from the
    signature. `priority` goes from 0 to 9, the most urgent. `on_worker_lost` is "retry" or "fail".
    `schedule` is a rule such as `{"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}`.
    `retry` and the other policies of a definition are given as they are over HTTP (`rate_limit="10/m"` is Celery's
    own option, which each worker keeps to by itself). Everything else is a Celery task option: `max_retries`,
    `autoretry_for`, `retry_backoff`, `retry_backoff_max`, `retry_jitter`, `time_limit`, `soft_time_limit`, …
    """
    if function is None:
        return functools.partial(
            job, name=name, queue=queue, priority=priority, on_worker_lost=on_worker_lost,
            schedule=schedule, tags=tags, **more,
        )  # fmt: skip
    name = name or function.__name__
    celery_options.refuse_coroutine(name, function)
    own = {option: more.pop(option) for option in policies.PARSERS if option in more and not _is_celerys(option, more)}
    options = _checked_options(name, queue, priority, on_worker_lost, schedule, tags)
    options = replace(options, policies=_checked_policies(name, own, function))
    _refuse(name, celery_options.check(more))
    # typing=False: Celery would count the injected context among the caller's arguments.
    return shared_task(_with_context(function), name=name, job_options=options, **{"typing": False, **more})


def _is_celerys(option: str, given: Mapping[str, Any]) -> bool:
    """Celery has an option of this name, too: `rate_limit="10/m"`, for each worker by itself."""
    return option == "rate_limit" and isinstance(given[option], str | int | float)


def _checked_options(
    name: str, queue: str, priority: int, on_worker_lost: str, schedule: Mapping[str, Any] | None, tags: tuple[str, ...]
) -> JobOptions:
    if not QUEUE.match(queue):
        raise Misconfigured(f"@job {name}: queue {queue!r} must be lower-case letters, digits, '_', '.', '-'")
    if priority not in PRIORITIES:
        raise Misconfigured(f"@job {name}: priority {priority!r} must be a number from 0 to 9")
    if on_worker_lost not in list(OnWorkerLost):
        raise Misconfigured(f"@job {name}: on_worker_lost {on_worker_lost!r} must be 'retry' or 'fail'")
    rule = schedules.to_job(schedules.of_job(name, schedule)) if schedule is not None else None
    return JobOptions(queue, priority, OnWorkerLost(on_worker_lost), rule, tuple(tags))


def _checked_policies(name: str, given: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    made, problems = policies.normalise(given)
    if any(made[option] for option in limits.KEYED):
        problems += limits.check_keys(made, parameters.from_signature(function, (Context,)))
    _refuse(name, problems)
    return {option: made[option] for option in given}


def _refuse(name: str, problems: Iterable[FieldError]) -> None:
    if told := "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems):
        raise Misconfigured(f"@job {name}: {told}")


def _with_context(function: Callable[..., Any]) -> Callable[..., Any]:
    wanted = _context_parameters(function)
    if not wanted:
        return function
    places = _places(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A caller in a test may hand in a context of its own, by position or by name.
        if any(isinstance(value, Context) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        context, rest, filled = current(), list(args), dict[str, Any]()
        # Who calls by position does not know of the context, wherever it stands.
        for name in places:
            if rest:
                filled[name] = context if name in wanted else rest.pop(0)
        kwargs.update({name: context for name in wanted if name not in filled})
        return function(*filled.values(), *rest, **kwargs)

    return run


def _context_parameters(function: Callable[..., Any]) -> list[str]:
    hints = typing.get_type_hints(function)
    return [name for name in inspect.signature(function).parameters if hints.get(name) is Context]


def _places(function: Callable[..., Any]) -> list[str]:
    """The parameters that may be given by position."""
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
