"""The decorator `@job`, which makes a function a job."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Task, shared_task
from celery.local import Proxy

from jobworker.declare import celery_options, names
from jobworker.declare.context import Context, current
from jobworker.domain.errors import ConfigurationError, FieldError
from jobworker.domain.executions.execution import DEFAULT_PRIORITY
from jobworker.domain.jobs import parameters, policies
from jobworker.domain.jobs.definition import DEFAULT_QUEUE, JobDefinition, OnWorkerLost
from jobworker.domain.jobs.definition_validation import validate_definition
from jobworker.domain.jobs.isolation import CONTAINER_TASK
from jobworker.domain.schedules import schedule as schedules


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The options of `@job` that are not Celery's own task options; stored on the task as `job_options`."""

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
    tags: Sequence[str] = (),
    **more: Any,
) -> Any:
    """Make a function a job. Works bare (`@job`) and with options (`@job(queue="background")`).

    The name of the job is the function's name unless `name` is given; the parameters of the job are read from the
    signature. `priority` is 0 to 9, and 9 is the most urgent. `on_worker_lost` is "retry" or "fail". `schedule` is a
    rule such as `{"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}`.

    `retry` and the other policies of a job definition have the format of the API (`rate_limit="10/m"` is Celery's own
    option, which limits each worker separately). All other options are Celery task options: `max_retries`,
    `autoretry_for`, `retry_backoff`, `retry_backoff_max`, `retry_jitter`, `time_limit`, `soft_time_limit`, …

    Raises `ConfigurationError` with all errors in the options. Parameters annotated `Context` get the context of the
    attempt and are not parameters of the job.
    """
    if function is None:
        return functools.partial(
            job, name=name, queue=queue, priority=priority, on_worker_lost=on_worker_lost,
            schedule=schedule, tags=tags, **more,
        )  # fmt: skip
    _check_function(function, named=name is not None)
    name = function.__name__ if name is None else name
    celery_options.check_plain_function(name, function)
    given_policies = {
        option: more.pop(option)
        for option in policies.PARSERS
        if option in more and not _is_celery_rate_limit(option, more)
    }
    time_limits: dict[str, Any] = {option: more.get(option) for option in ("time_limit", "soft_time_limit")}
    _raise_if_invalid(
        name, [*celery_options.validate(more), *_validate_types(name, queue, priority, on_worker_lost, tags)]
    )
    definition = JobDefinition(
        name, name, queue=queue, priority=priority, on_worker_lost=OnWorkerLost(on_worker_lost), schedule=schedule,
        tags=tuple(tags), policies=given_policies, **time_limits,
    )  # fmt: skip
    _raise_if_invalid(name, _validate_definition(definition, function, bool(more.get("bind"))))
    normalized_policies, _ = policies.normalize(given_policies)
    rule = schedules.to_job_json(schedules.parse_job_schedule(name, schedule)) if schedule is not None else None
    options_policies = {option: normalized_policies[option] for option in given_policies}
    options = JobOptions(queue, priority, definition.on_worker_lost, rule, definition.tags, options_policies)
    names.reserve(name, function)
    # typing=False: Celery would count the injected context among the caller's arguments.
    return shared_task(_inject_context(function), name=name, job_options=options, **{"typing": False, **more})


def _check_function(value: Any, named: bool) -> None:
    """Raise `ConfigurationError` if `value` is not a function with a name."""
    shown = f"{value!r:.100}"
    if isinstance(value, type):
        raise ConfigurationError(f"@job {shown}: a class becomes a job by deriving from jobworker.Job")
    if isinstance(value, Proxy | Task):
        raise ConfigurationError("@job: this is a job, or a task of Celery, already")
    if getattr(value, "__name__", None) == "<lambda>" and not named:
        raise ConfigurationError("@job: a lambda has no name; give it one: job(lambda: …, name=…)")
    if not callable(value) or not hasattr(value, "__qualname__"):
        raise ConfigurationError(f"@job {shown}: only a function can be a job; options are given by name: @job(name=…)")


def _is_celery_rate_limit(option: str, options: Mapping[str, Any]) -> bool:
    """Return whether `rate_limit` is Celery's option of that name (`"10/m"`, for each worker), not the policy."""
    return option == "rate_limit" and isinstance(options[option], str | int | float)


def _validate_types(name: Any, queue: Any, priority: Any, on_worker_lost: Any, tags: Any) -> Iterator[FieldError]:
    for option, value in (("name", name), ("queue", queue)):
        if not isinstance(value, str):
            yield FieldError(f"/{option}", "wrong_type", f"{option} must be a text, not {value!r}")
    if type(priority) is not int:
        yield FieldError("/priority", "wrong_type", f"priority must be an integer, not {priority!r}")
    if on_worker_lost not in list(OnWorkerLost):
        message = f"on_worker_lost must be 'retry' or 'fail', not {on_worker_lost!r}"
        yield FieldError("/on_worker_lost", "not_allowed", message)
    if isinstance(tags, str) or not isinstance(tags, Iterable) or not all(isinstance(tag, str) for tag in tags):
        yield FieldError("/tags", "wrong_type", f"tags must be a list of texts, not {tags!r}")


def _validate_definition(definition: JobDefinition, function: Callable[..., Any], bound: bool) -> list[FieldError]:
    accepted = parameters.from_signature(function, (Context,))
    problems = validate_definition(definition, accepted[1:] if bound else accepted)
    if definition.name == CONTAINER_TASK:  # Its definitions set the image.
        problems = [problem for problem in problems if problem.pointer != "/isolation"]
    signature_parameters = list(inspect.signature(function).parameters.values())[bool(bound) :]
    by_position = [parameter.name for parameter in signature_parameters if parameter.kind is parameter.POSITIONAL_ONLY]
    if by_position:
        message = (
            f"parameters are given by name, so {', '.join(by_position)} must not be positional-only: take out the /"
        )
        problems.append(FieldError("/parameters", "not_allowed", message))
    return problems


def _raise_if_invalid(name: str, problems: Iterable[FieldError]) -> None:
    if message := "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems):
        raise ConfigurationError(f"@job {name}: {message}")


def _inject_context(function: Callable[..., Any]) -> Callable[..., Any]:
    context_names = _find_context_parameters(function)
    if not context_names:
        return function
    positional_names = _find_positional_parameters(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A caller in a test may hand in a context of its own, by position or by name.
        if any(isinstance(value, Context) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        context, remaining, filled = current(), list(args), dict[str, Any]()
        # Positional arguments of the caller skip the context, wherever it is in the signature.
        for name in positional_names:
            if remaining:
                filled[name] = context if name in context_names else remaining.pop(0)
        kwargs.update({name: context for name in context_names if name not in filled})
        return function(*filled.values(), *remaining, **kwargs)

    return run


def _find_context_parameters(function: Callable[..., Any]) -> list[str]:
    hints = parameters.get_annotations(function, (Context,))
    return [name for name in inspect.signature(function).parameters if hints.get(name) is Context]


def _find_positional_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that may be given by position."""
    signature_parameters = inspect.signature(function).parameters.values()
    return [
        parameter.name
        for parameter in signature_parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
