"""What users write jobs with: `@job` and the `Context` that a running job may ask for."""

import contextvars
import datetime as dt
import functools
import inspect
import logging
import typing
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from celery import shared_task

from jobworker.domain import policies
from jobworker.domain.errors import Misconfigured
from jobworker.domain.execution import DEFAULT_PRIORITY, PRIORITIES
from jobworker.domain.job import DEFAULT_QUEUE, QUEUE, OnWorkerLost
from jobworker.domain.schedule import parse as parse_rule


class Progress(Protocol):
    """Where progress goes."""

    def __call__(self, done: float, total: float | None, message: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that a job left behind: where it is and how many bytes it has."""

    path: str
    size: int


class Files(Protocol):
    """Where the files of one execution go."""

    def save(self, name: str, data: bytes | str) -> SavedFile:
        """Keep `data` under `name` (a plain file name); text is written as UTF-8."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a running job may know and do. Handed to a parameter annotated `Context`, or by `current()`.

    `attempt` counts from 1; `max_attempts` is None when there is no limit; `scheduled_for` is the nominal
    time of a scheduled execution (UTC). `metadata` is kept with the execution: names and JSON values, together
    up to 16 KiB; the next attempt finds what the one before it has left.
    """

    execution_id: str
    job: str
    attempt: int
    max_attempts: int | None
    parameters: Mapping[str, Any]
    scheduled_for: dt.datetime | None
    correlation_id: str
    worker: str
    log: logging.Logger
    files: Files
    _progress: Progress = field(repr=False)
    metadata: MutableMapping[str, Any] = field(default_factory=dict)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show how far the job is; never fails and never waits."""
        self._progress(done, total, message)


_current: contextvars.ContextVar[Context | None] = contextvars.ContextVar("jobworker_context", default=None)


def current() -> Context:
    """The context of the job that is running here; raises `LookupError` outside of one."""
    context = _current.get()
    if context is None:
        raise LookupError("no job is running here; jobworker.current() works only inside a job")
    return context


def enter(context: Context) -> contextvars.Token[Context | None]:
    """Make `context` the current one (for the code that runs jobs)."""
    return _current.set(context)


def leave(token: contextvars.Token[Context | None]) -> None:
    """The inverse of `enter`."""
    _current.reset(token)


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
    `retry` and the other policies of a definition are given as they are over HTTP. Everything else is a Celery
    task option: `max_retries`, `autoretry_for`, `retry_backoff`, `retry_backoff_max`, `retry_jitter`, `time_limit`,
    `soft_time_limit`, …
    """
    if function is None:
        return functools.partial(
            job, name=name, queue=queue, priority=priority, on_worker_lost=on_worker_lost,
            schedule=schedule, tags=tags, **more,
        )  # fmt: skip
    name = name or function.__name__
    own = {option: more.pop(option) for option in policies.PARSERS if option in more}
    options = _checked_options(name, queue, priority, on_worker_lost, schedule, tags)
    options = replace(options, policies=_checked_policies(name, own))
    # typing=False: Celery would count the injected context among the caller's arguments.
    return shared_task(_with_context(function), name=name, job_options=options, typing=False, **more)


def _checked_options(
    name: str, queue: str, priority: int, on_worker_lost: str, schedule: Mapping[str, Any] | None, tags: tuple[str, ...]
) -> JobOptions:
    if not QUEUE.match(queue):
        raise Misconfigured(f"@job {name}: queue {queue!r} must be lower-case letters, digits, '_', '.', '-'")
    if priority not in PRIORITIES:
        raise Misconfigured(f"@job {name}: priority {priority!r} must be a number from 0 to 9")
    if on_worker_lost not in list(OnWorkerLost):
        raise Misconfigured(f"@job {name}: on_worker_lost {on_worker_lost!r} must be 'retry' or 'fail'")
    rule = parse_rule(schedule).to_json() if schedule is not None else None
    return JobOptions(queue, priority, OnWorkerLost(on_worker_lost), rule, tuple(tags))


def _checked_policies(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    made, problems = policies.normalise(given)
    if problems:
        told = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
        raise Misconfigured(f"@job {name}: {told}")
    return {option: made[option] for option in given}


def _with_context(function: Callable[..., Any]) -> Callable[..., Any]:
    wanted = _context_parameters(function)
    if not wanted:
        return function

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # A caller in a test may hand in a context of its own, by position or by name.
        if not any(isinstance(value, Context) for value in (*args, *kwargs.values())):
            kwargs.update(dict.fromkeys(wanted, current()))
        return function(*args, **kwargs)

    return run


def _context_parameters(function: Callable[..., Any]) -> list[str]:
    hints = typing.get_type_hints(function)
    return [name for name in inspect.signature(function).parameters if hints.get(name) is Context]
