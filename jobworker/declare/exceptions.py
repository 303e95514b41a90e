"""What a job raises to say how it goes on: `Retry`, `Snooze`, `Abort`, `JobCancelled`."""

import datetime as dt
import math
from typing import Any

import celery.exceptions

from jobworker.domain.jobs.retry import MAX_DELAY_SECONDS

#: Seconds, or as a `timedelta`.
DelayLike = float | dt.timedelta


class Retry(celery.exceptions.Retry):  # type: ignore[misc]
    """This attempt failed, and another may follow: after `delay`, or as the policy says; `reason` is for history.

    It uses up an attempt. When none is left, the execution fails with what it was raised `from`.
    Raises `ValueError` for a delay that cannot be.
    """

    def __init__(self, delay: DelayLike | None = None, reason: str | None = None) -> None:
        self.delay = None if delay is None else _parse_delay(delay)
        self.reason = _to_text(reason)
        super().__init__(self.reason, when=self.delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.when, self.reason)


class Snooze(celery.exceptions.Retry):  # type: ignore[misc]
    """Not now: the same again after `delay`. It uses up no attempt; `reason` is for history."""

    def __init__(self, delay: DelayLike, reason: str | None = None) -> None:
        self.delay = _parse_delay(delay)
        self.reason = _to_text(reason)
        super().__init__(self.reason, when=self.delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay, self.reason)


class Abort(Exception):
    """It failed, and no other attempt would help: none follows, whatever the policy says."""

    def __init__(self, reason: str) -> None:
        self.reason = str(reason)
        super().__init__(self.reason)


class JobCancelled(BaseException):
    """The job ends because somebody had it cancelled. Not an `Exception`, so that no `except Exception` hides it."""


def _to_text(reason: Any) -> str | None:
    return None if reason is None else str(reason)


def _parse_delay(delay: Any) -> float:
    seconds = delay.total_seconds() if isinstance(delay, dt.timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"delay must be a number of seconds or a timedelta, not {delay!r}")
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ValueError(f"delay must be 0 seconds to {MAX_DELAY_SECONDS / 86400:g} days, not {seconds:g} s")
    return float(seconds)
