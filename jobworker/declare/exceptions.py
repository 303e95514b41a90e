"""Exceptions that a job raises to end its attempt: `Retry`, `Snooze`, `Abort`, `JobCancelled`."""

import datetime as dt
import math
from typing import Any

import celery.exceptions

from jobworker.domain.jobs.retry import MAX_DELAY_SECONDS

#: Seconds, or a `timedelta`.
DelayLike = float | dt.timedelta


class Retry(celery.exceptions.Retry):  # type: ignore[misc]
    """A failed attempt that another attempt follows: `raise Retry(delay=60, reason="rate limited")`.

    The next attempt follows after `delay`, or after the delay of the retry policy if no `delay` is given; `reason` is
    recorded in the history. The attempt is used up. If no attempt is left, the execution fails with the error that
    the exception was raised `from`. Raises `ValueError` for an invalid delay.
    """

    def __init__(self, delay: DelayLike | None = None, reason: str | None = None) -> None:
        self.delay = None if delay is None else _parse_delay(delay)
        self.reason = _to_text(reason)
        super().__init__(self.reason, when=self.delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.when, self.reason)


class Snooze(celery.exceptions.Retry):  # type: ignore[misc]
    """A postponement: the job runs again after `delay`, and no attempt is used up: `raise Snooze(300, "no file yet")`.

    `reason` is recorded in the history. Raises `ValueError` for an invalid delay.
    """

    def __init__(self, delay: DelayLike, reason: str | None = None) -> None:
        self.delay = _parse_delay(delay)
        self.reason = _to_text(reason)
        super().__init__(self.reason, when=self.delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay, self.reason)


class Abort(Exception):
    """A final failure: no other attempt follows, regardless of the retry policy: `raise Abort("unknown customer")`."""

    def __init__(self, reason: str) -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


class JobCancelled(BaseException):
    """The end of a job after its cancellation, raised by `Context.raise_if_cancelled`.

    It is not an `Exception`, so that no `except Exception` in the job catches it.
    """


def _to_text(reason: Any) -> str | None:
    return None if reason is None else str(reason)


def _parse_delay(delay: Any) -> float:
    seconds = delay.total_seconds() if isinstance(delay, dt.timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"delay must be a number of seconds or a timedelta, not {delay!r}")
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ValueError(f"delay must be 0 seconds to {MAX_DELAY_SECONDS / 86400:g} days, not {seconds:g} s")
    return float(seconds)
