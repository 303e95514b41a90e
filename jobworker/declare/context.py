"""The context of a running job: its attempt, and the services that it can use."""

import contextvars
import datetime as dt
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobworker.declare.exceptions import JobCancelled
from jobworker.domain.jobs.definition_validation import MAX_TIME_LIMIT_SECONDS


class ProgressReporter(Protocol):
    """A function that reports the progress of an execution."""

    def __call__(self, done: float, total: float | None, message: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that a job saved: its path and its size in bytes."""

    path: str
    size: int


class Files(Protocol):
    """The store for the files of one execution."""

    def save(self, name: str, data: bytes | str) -> SavedFile:
        """Save `data` as the file `name` (a plain file name) and return its path and size; text is written as UTF-8."""
        ...


class JobControl(Protocol):
    """The connection of a job to the control of its attempt: its cancellation and its time limits."""

    @property
    def cancelled(self) -> bool: ...

    def extend(self, seconds: float) -> None: ...


class _NoJobControl:
    """The control of a context that was not created by a worker, for example in a test."""

    cancelled = False

    def extend(self, seconds: float) -> None:
        """Do nothing, because there is no time limit."""


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a running job: its attempt, its parameters, and what it can report.

    A job gets its context through a parameter annotated `Context`; `current()` returns it anywhere in a running job.

    `attempt` counts from 1 to `max_attempts` (None: no limit). `scheduled_for` is the nominal time of a scheduled
    execution (UTC). `log` writes to the log of the execution, and `files` saves files with the execution. `metadata`
    is stored with the execution: names and JSON values, together at most 16 KiB. The next attempt finds the metadata
    that the previous attempt left.
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
    _progress: ProgressReporter = field(repr=False)
    metadata: MutableMapping[str, Any] = field(default_factory=dict)
    _control: JobControl = field(repr=False, default=_NoJobControl())

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report the progress of the job, for example `progress(3, 10, "third page")`; never fails and never waits."""
        self._progress(done, total, message)

    @property
    def cancelled(self) -> bool:
        """True as soon as a cancellation of this execution was requested. Costs nothing, so it can be read often."""
        return self._control.cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `JobCancelled`, which ends the execution as Cancelled, if its cancellation was requested."""
        if self.cancelled:
            raise JobCancelled("the job stopped by itself")

    def extend(self, seconds: float) -> None:
        """Extend both time limits of this attempt by `seconds`; raises `TypeError` or `ValueError` for other values."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"context.extend() takes a number of seconds, not {seconds!r}")
        if not 0 < seconds <= MAX_TIME_LIMIT_SECONDS:
            raise ValueError(
                f"context.extend() takes more than 0 and at most {MAX_TIME_LIMIT_SECONDS:.0f} seconds, not {seconds!r}"
            )
        self._control.extend(seconds)


_current: contextvars.ContextVar[Context | None] = contextvars.ContextVar("jobworker_context", default=None)


def current() -> Context:
    """Return the context of the job that is running here; raises `LookupError` outside of a job."""
    context = _current.get()
    if context is None:
        raise LookupError("no job is running here; jobworker.current() works only inside a job")
    return context


def set_current_context(context: Context) -> contextvars.Token[Context | None]:
    """Set the current context and return the token that restores the previous one (for the code that runs jobs)."""
    return _current.set(context)


def reset_current_context(token: contextvars.Token[Context | None]) -> None:
    """Restore the context that `set_current_context` replaced."""
    _current.reset(token)
