"""Jobs that are classes: a method that does the work, and hooks around it."""

import contextvars
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from celery.exceptions import SoftTimeLimitExceeded

from jobworker.declare.celery_options import check_plain_function
from jobworker.declare.context import Context, current
from jobworker.declare.functions import job
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs import policies

#: Celery options that may be class attributes, besides the options of `@job` and the names of policies.
_CELERY_OPTIONS = (
    "time_limit", "soft_time_limit", "max_retries", "default_retry_delay", "autoretry_for", "dont_autoretry_for",
    "retry_backoff", "retry_backoff_max", "retry_jitter", "retry_kwargs", "throws",
)  # fmt: skip


class Job:
    """A job that is a class, with hooks around its work: `class Export(Job): def run(self, month: str): …`.

    The class attributes are the options of `@job` (`queue = "reports"`, `max_retries = 3`). The parameters of the job
    are those of `run`, read from its signature. Each attempt gets a new object, constructed without arguments. If a
    hook raises an exception, the exception is logged on the execution and has no other effect.
    A base class of jobs that is not a job itself is declared with `class Base(Job, abstract=True)`.
    """

    #: The Celery task.
    task: ClassVar[Any]
    #: The work of the job. The return value is the result of the execution.
    run: Callable[..., Any]
    #: The arguments that `run` was called with, with default values and without the context.
    parameters: Mapping[str, Any]

    def __init_subclass__(cls, abstract: bool = False, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not abstract:
            cls.task = _register(cls)

    @property
    def context(self) -> Context:
        """The `Context` of the running attempt; raises `LookupError` outside of an attempt."""
        return current()

    def before_start(self) -> None:
        """Prepare the attempt: called before `run`, in each attempt."""

    def on_success(self, result: Any) -> None:
        """Handle success: called after `run` returned a result that can be stored."""

    def on_failure(self, error: BaseException) -> None:
        """Handle the final failure: called when the execution failed or timed out and no attempt follows."""

    def on_retry(self, error: BaseException, delay: float) -> None:
        """Handle a failed attempt that another attempt follows after `delay` seconds; not called for a `Snooze`."""

    def on_cancel(self) -> None:
        """Handle cancellation: called when the job stopped because its execution was cancelled."""

    def after_return(self, state: str) -> None:
        """Clean up: called last; `state` is Succeeded, Failed, TimedOut, Retrying or Cancelled."""


_current_job: contextvars.ContextVar[Job | None] = contextvars.ContextVar("jobworker_job", default=None)


def clear_current_job() -> None:
    """Clear the current job at the start of an attempt, before its object exists (for the code that runs jobs)."""
    _current_job.set(None)


def get_current_job() -> Job | None:
    """Return the object of the attempt that runs here; None if it does not exist (yet)."""
    return _current_job.get()


def log_hook_failure(hook: Callable[..., None]) -> None:
    """Write the exception that a hook has just raised to the log of the execution."""
    logging.getLogger(f"jobs.{hook.__qualname__}").exception("%s() failed", hook.__name__)


def _register(cls: type[Job]) -> Any:
    if not callable(getattr(cls, "run", None)):
        raise ConfigurationError(f"job {cls.__name__}: a class that is a job needs a method run()")
    check_plain_function(cls.__name__, cls.run)
    own = [
        parameter.name
        for parameter in inspect.signature(job).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    names = {*own, *policies.PARSERS, *_CELERY_OPTIONS} - {"name"}
    options = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    return job(_make_task_function(cls), name=cls.__dict__.get("name"), job_class=cls, **options)


def _make_task_function(cls: type[Job]) -> Callable[..., Any]:
    """Return the function of the task; it has the parameters of `run`, without `self`."""
    signature = _drop_self(inspect.signature(cls.run))

    @functools.wraps(cls.run)
    def start(*args: Any, **kwargs: Any) -> Any:
        instance = cls()
        instance.parameters = _bind_parameters(signature, args, kwargs)
        if _current_job.get() is None:  # Else a job that runs already calls another one as a function.
            _current_job.set(instance)
        _run_before_start(instance)
        return instance.run(*args, **kwargs)

    start.__signature__ = signature  # type: ignore[attr-defined]
    start.__name__, start.__qualname__ = cls.__name__, cls.__qualname__
    start.__doc__ = cls.__doc__ or cls.run.__doc__
    return start


def _drop_self(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _bind_parameters(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    arguments = signature.bind(*args, **kwargs)
    arguments.apply_defaults()
    values = dict(arguments.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            values.update(values.pop(name))
    return {name: value for name, value in values.items() if not isinstance(value, Context)}


def _run_before_start(instance: Job) -> None:
    try:
        instance.before_start()
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001  a hook changes nothing
        log_hook_failure(instance.before_start)
