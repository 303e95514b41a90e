"""What a running job knows of itself, and whom it may talk to."""

import contextvars
import datetime as dt
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobworker.declare.exceptions import JobCancelled
from jobworker.domain.jobs.admission import MAX_TIME_LIMIT_SECONDS


class ProgressReporter(Protocol):
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


class JobControl(Protocol):
    """Where the job hears of its cancellation, and asks for more time."""

    @property
    def cancelled(self) -> bool: ...

    def extend(self, seconds: float) -> None: ...


class _NoJobControl:
    """For a context that no worker has made: in a test, say."""

    cancelled = False

    def extend(self, seconds: float) -> None:
        """There is no limit."""


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
    _progress: ProgressReporter = field(repr=False)
    metadata: MutableMapping[str, Any] = field(default_factory=dict)
    _control: JobControl = field(repr=False, default=_NoJobControl())

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show how far the job is; never fails and never waits."""
        self._progress(done, total, message)

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants this execution stopped. Costs nothing: ask as often as you like."""
        return self._control.cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `JobCancelled` if somebody wants this execution stopped; it ends as Cancelled then."""
        if self.cancelled:
            raise JobCancelled("the job stopped by itself")

    def extend(self, seconds: float) -> None:
        """Move both time limits of this attempt by so many seconds. Raises `TypeError`, `ValueError`."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"context.extend() takes a number of seconds, not {seconds!r}")
        if not 0 < seconds <= MAX_TIME_LIMIT_SECONDS:
            raise ValueError(
                f"context.extend() takes more than 0 and at most {MAX_TIME_LIMIT_SECONDS:.0f} seconds, not {seconds!r}"
            )
        self._control.extend(seconds)


_current: contextvars.ContextVar[Context | None] = contextvars.ContextVar("jobworker_context", default=None)


def current() -> Context:
    """The context of the job that is running here; raises `LookupError` outside of one."""
    context = _current.get()
    if context is None:
        raise LookupError("no job is running here; jobworker.current() works only inside a job")
    return context


def set_current_context(context: Context) -> contextvars.Token[Context | None]:
    """Make `context` the current one (for the code that runs jobs)."""
    return _current.set(context)


def reset_current_context(token: contextvars.Token[Context | None]) -> None:
    """The inverse of `enter`."""
    _current.reset(token)
