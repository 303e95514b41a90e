"""Validation of the Celery options of a job, because Celery itself would fail only in the middle of a run."""

import datetime as dt
import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery import Task
from celery.utils.time import rate

from jobworker.domain.errors import ConfigurationError, FieldError
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition_validation import validate_time_limits
from jobworker.domain.jobs.retry import MAX_ATTEMPTS


def validate(options: Mapping[str, Any]) -> Iterator[FieldError]:
    """Yield the errors in the options that JobWorker relies on, and the option names that do not exist."""
    base = options.get("base")
    if base is not None and not (isinstance(base, type) and issubclass(base, Task)):
        yield FieldError(
            "/base", "wrong_type", f"base must be a class that derives from celery.Task, not {base!r:.100}"
        )
    else:
        yield from _validate_names(options)
    retries = options.get("max_retries")
    if retries is not None and (type(retries) is not int or not 0 <= retries < MAX_ATTEMPTS):
        message = f"max_retries must be an integer from 0 to {MAX_ATTEMPTS - 1}, or None for any number"
        yield FieldError("/max_retries", "not_allowed", message)
    for name in ("default_retry_delay", "retry_backoff_max"):
        if name in options and not _is_delay(options[name]):
            yield FieldError(f"/{name}", "not_allowed", f"{name} must be a number of seconds, 0 or more")
    backoff = options.get("retry_backoff", False)
    if not isinstance(backoff, bool) and not _is_delay(backoff):
        message = "retry_backoff must be True, False or a number of seconds, 0 or more"
        yield FieldError("/retry_backoff", "not_allowed", message)
    yield from _validate_time_limits(options.get("time_limit"), options.get("soft_time_limit"))
    yield from _validate_task_attributes(options)


def _validate_task_attributes(options: Mapping[str, Any]) -> Iterator[FieldError]:
    """Yield the errors at which Celery would fail when a worker starts, or when the job fails."""
    for name in ("autoretry_for", "dont_autoretry_for", "throws"):
        if name in options and not _are_exception_types(options[name]):
            yield FieldError(f"/{name}", "wrong_type", f"{name} must be a tuple of classes of exceptions: (OSError,)")
    if not isinstance(options.get("retry_jitter", True), bool):
        yield FieldError("/retry_jitter", "wrong_type", "retry_jitter must be True or False")
    if options.get("serializer", "json") != "json":
        yield FieldError("/serializer", "not_allowed", 'serializer must be "json": parameters and results are JSON')
    for name in options:
        if callable(getattr(Task, name, None)) and name not in (*_TASK_HOOKS, *_DECORATOR_OPTIONS):
            yield FieldError(
                f"/{name}", "not_allowed", f"{name} is a method of tasks; override it in a class, by base=…"
            )
    expires = options.get("expires")
    if expires is not None and not (_is_delay(expires) or isinstance(expires, dt.datetime)):
        yield FieldError("/expires", "wrong_type", "expires must be a number of seconds, 0 or more, or a datetime")
    try:
        rate(options.get("rate_limit"))
    except (KeyError, TypeError, ValueError):
        yield FieldError("/rate_limit", "wrong_type", 'rate_limit must be like "10/s", "10/m" or "10/h"')


def _are_exception_types(value: Any) -> bool:
    return isinstance(value, tuple | list | set | frozenset) and all(
        isinstance(item, type) and issubclass(item, BaseException) for item in value
    )


def _validate_names(options: Mapping[str, Any]) -> Iterator[FieldError]:
    option_names = {
        *_JOB_OPTIONS,
        *_DECORATOR_OPTIONS,
        *(name for name in dir(options.get("base") or Task) if not name.startswith("_")),
    }
    for name in options:
        if name not in option_names:
            suggestion = _SYNONYMS.get(name) or next(iter(difflib.get_close_matches(name, option_names, 1)), None)
            hint = (
                f"; did you mean {suggestion}?" if suggestion else ", nor is it an attribute of the task's base class"
            )
            yield FieldError(f"/{name}", "unknown_field", f"{name} is not an option of jobs or of Celery's tasks{hint}")


#: Options of `@job` itself, used to suggest a name for a misspelled option.
_JOB_OPTIONS = ("queue", "priority", "on_worker_lost", "schedule", "tags", *policies.PARSERS)

#: Names that other systems use for an option, with the name used here.
_SYNONYMS = {"timeout": "time_limit", "retries": "max_retries", "delay": "default_retry_delay", "cron": "schedule"}

#: Options of Celery's decorator that are not attributes of tasks, and the option that `@job` uses for a class.
_DECORATOR_OPTIONS = (
    "autoretry_for", "base", "bind", "dont_autoretry_for", "job_class", "pydantic", "pydantic_context",
    "pydantic_dump_kwargs", "pydantic_strict", "retry_backoff", "retry_backoff_max", "retry_jitter", "retry_kwargs",
)  # fmt: skip


#: Methods of tasks that Celery calls. Celery's documentation passes functions for them as options.
_TASK_HOOKS = ("after_return", "before_start", "on_failure", "on_retry", "on_success", "Strategy", "Request")


def check_plain_function(name: str, function: Callable[..., Any]) -> None:
    """Raise `ConfigurationError` if a worker could not run the function, because workers call plain functions only."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"@job {name}: workers call plain functions, each run of an `async def` would fail; "
            "make it a `def` that runs its coroutine with asyncio.run()"
        )
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"@job {name}: a function with `yield` does nothing when it is called; return a list, or call it from a job"
        )


def _validate_time_limits(hard: Any, soft: Any) -> Iterator[FieldError]:
    limits = {"time_limit": hard, "soft_time_limit": soft}
    wrong = [name for name, limit in limits.items() if limit is not None and not _is_number(limit)]
    for name in wrong:
        yield FieldError(f"/{name}", "wrong_type", f"{name} must be a number of seconds")
    if not wrong:
        yield from validate_time_limits(hard, soft)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_delay(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value >= 0
