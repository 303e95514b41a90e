"""Retry policy: the number of attempts of a failing execution, and the waits between them.

`retry` in a definition, all fields optional:

max_attempts   attempts in all, the first included; null: the task's own `max_retries` decides
strategy       none: the task's own options (Celery's) decide; fixed, linear, exponential, exponential_jitter: this
               policy decides
delay          the unit of the waits (s): 30 gives linear 30, 60, 90 and exponential 30, 60, 120
max_delay      maximum wait (s)
delays         the waits themselves (s), instead of a strategy; the last one repeats
jitter         range of the random part of a wait, with exponential_jitter: both (50 to 150 %), up (100 to 150 %),
               down (50 to 100 %)
retry_on       names of exceptions (or of their base classes) that are retried; empty: all
not_on         names of exceptions that are not retried, even if in retry_on
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.json.json_reader import JsonObjectReader

MAX_ATTEMPTS = 1000

#: Maximum wait (s).
MAX_DELAY_SECONDS = 366 * 24 * 3600.0

#: Number of attempts in a preview of a policy without a maximum.
_DEFAULT_PREVIEW_ATTEMPTS = 10

_MAX_NAMES = 50
_MAX_NAME_LENGTH = 200


class RetryStrategy(StrEnum):
    """Growth of the waits from retry to retry."""

    NONE = "none"
    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    EXPONENTIAL_JITTER = "exponential_jitter"


class JitterDirection(StrEnum):
    """Direction of the random part of a wait."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


_JITTER_FACTORS: Mapping[JitterDirection, tuple[float, float]] = {
    JitterDirection.UP: (1.0, 1.5),
    JitterDirection.DOWN: (0.5, 1.0),
    JitterDirection.BOTH: (0.5, 1.5),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry policy; the module documents the fields. `decides`: the policy overrides the task's own options."""

    max_attempts: int | None = None
    strategy: RetryStrategy = RetryStrategy.NONE
    delay: float = 30.0
    max_delay: float = 3600.0
    delays: tuple[float, ...] | None = None
    jitter: JitterDirection = JitterDirection.BOTH
    retry_on: tuple[str, ...] = ()
    not_on: tuple[str, ...] = ()

    @property
    def decides(self) -> bool:
        """True if the policy has a strategy or delays, and so overrides the task's own options."""
        return self.strategy is not RetryStrategy.NONE or self.delays is not None

    def is_retryable(self, names: Collection[str]) -> bool:
        """Return whether an exception with these names is retried.

        `names` are those of the exception and of its bases, plain and with the module.
        """
        if any(name in self.not_on for name in names):
            return False
        return not self.retry_on or any(name in self.retry_on for name in names)

    def compute_wait_bounds(self, retry: int) -> tuple[float, float]:
        """Return the shortest and the longest wait (s) before the `retry`-th retry, which counts from 1."""
        if self.delays is not None:
            wait = self.delays[min(retry, len(self.delays)) - 1]
            return wait, wait
        wait = self.delay * self._compute_growth(retry)
        if self.strategy is not RetryStrategy.EXPONENTIAL_JITTER:
            return min(wait, self.max_delay), min(wait, self.max_delay)
        low, high = _JITTER_FACTORS[self.jitter]
        wait = min(wait, self.max_delay)
        return min(wait * low, self.max_delay), min(wait * high, self.max_delay)

    def compute_wait(self, retry: int, chance: float) -> float:
        """Return the wait (s) before the `retry`-th retry; `chance` is 0 to 1."""
        low, high = self.compute_wait_bounds(retry)
        return low + (high - low) * chance

    def compute_next_wait(
        self, names: Collection[str], used_retries: int, max_retries: int | None, chance: float
    ) -> float | None:
        """Return the wait (s) before another attempt, after a failure with these names; None: no attempt is left.

        `used_retries` retries were used up so far, of `max_retries` (None: any number); `chance` is 0 to 1.
        """
        if not self.is_retryable(names) or (max_retries is not None and used_retries >= max_retries):
            return None
        return self.compute_wait(used_retries + 1, chance)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {
            "max_attempts": self.max_attempts,
            "strategy": self.strategy.value,
            "delay": self.delay,
            "max_delay": self.max_delay,
            "delays": list(self.delays) if self.delays is not None else None,
            "jitter": self.jitter.value,
            "retry_on": list(self.retry_on),
            "not_on": list(self.not_on),
        }

    def _compute_growth(self, retry: int) -> float:
        if self.strategy is RetryStrategy.FIXED:
            return 1.0
        if self.strategy is RetryStrategy.LINEAR:
            return float(retry)
        # 2 ** 60 seconds exceed any maximum wait, and the bound prevents an overflow.
        return 2.0 ** min(retry - 1, 60)


def parse(value: object, where: str = "/retry") -> RetryPolicy:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    policy = RetryPolicy(
        max_attempts=read.get_integer("max_attempts", 1, MAX_ATTEMPTS),
        strategy=RetryStrategy(read.get_choice("strategy", list(RetryStrategy), RetryStrategy.NONE)),
        delay=read.get_seconds("delay", 0.0, MAX_DELAY_SECONDS, 30.0) or 0.0,
        max_delay=read.get_seconds("max_delay", 0.0, MAX_DELAY_SECONDS, 3600.0) or 0.0,
        delays=read.get_durations("delays", 0.0, MAX_DELAY_SECONDS, MAX_ATTEMPTS),
        jitter=JitterDirection(read.get_choice("jitter", list(JitterDirection), JitterDirection.BOTH)),
        retry_on=read.get_texts("retry_on", _MAX_NAME_LENGTH, _MAX_NAMES),
        not_on=read.get_texts("not_on", _MAX_NAME_LENGTH, _MAX_NAMES),
    )
    if policy.delays is not None and policy.strategy is not RetryStrategy.NONE:
        read.add_problem("delays", "ambiguous", "give delays or a strategy, not both")
    if not policy.decides and (policy.retry_on or policy.not_on):
        read.add_problem("strategy", "missing", "retry_on and not_on need a strategy or delays")
    read.finish()
    return policy


def list_exception_names(exception_type: type[BaseException]) -> list[str]:
    """Return the names by which a policy may list this exception: its own and its bases', plain and with the module."""
    bases = [base for base in exception_type.__mro__ if issubclass(base, BaseException)]
    return [name for base in bases for name in (base.__qualname__, f"{base.__module__}.{base.__qualname__}")]


@dataclass(frozen=True, slots=True)
class PlannedAttempt:
    """An attempt of a preview: its number, the wait before it (s), and its due time; earliest and latest.

    The preview assumes that each attempt fails at once.
    """

    attempt: int
    wait: tuple[float, float]
    due: tuple[dt.datetime, dt.datetime]


def preview_attempts(value: object, start: dt.datetime, attempts: int | None = None) -> Sequence[PlannedAttempt]:
    """Return the attempts that the policy in a request would allow. `attempts`: maximum number of them.

    Raises `InvalidInput`.
    """
    policy = parse(value)
    if not policy.decides:
        message = "there is nothing to preview: without a strategy or delays the task's own options decide"
        raise InvalidInput(message, [FieldError("/retry/strategy", "missing", message)])
    if attempts is not None and not 1 <= attempts <= MAX_ATTEMPTS:
        message = f"attempts must be 1 to {MAX_ATTEMPTS}"
        raise InvalidInput(message, [FieldError("/attempts", "not_allowed", message)])
    attempt_count = attempts or policy.max_attempts or _DEFAULT_PREVIEW_ATTEMPTS
    try:
        return plan_attempts(policy, start, min(attempt_count, policy.max_attempts or attempt_count))
    except OverflowError:
        message = "the last attempts would be after the end of all calendars"
        raise InvalidInput(message, [FieldError("/from", "too_far", message)]) from None


def plan_attempts(policy: RetryPolicy, start: dt.datetime, attempts: int) -> Sequence[PlannedAttempt]:
    """Return the first `attempts` attempts of an execution that starts at `start` and never succeeds."""
    planned = [PlannedAttempt(1, (0.0, 0.0), (start, start))]
    for retry in range(1, attempts):
        low, high = policy.compute_wait_bounds(retry)
        earliest, latest = planned[-1].due
        due = (earliest + dt.timedelta(seconds=low), latest + dt.timedelta(seconds=high))
        planned.append(PlannedAttempt(retry + 1, (low, high), due))
    return planned
