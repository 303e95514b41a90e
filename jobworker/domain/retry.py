"""How often a failing execution is tried, and how long it waits in between: pure functions of the policy.

`retry` in a definition, all fields optional:

max_attempts   attempts in all, the first included; null: as the task's own `max_retries` says
strategy       none: the task's own options (Celery's) decide; fixed, linear, exponential, exponential_jitter: this does
delay          the unit of the waits (s): 30 gives linear 30, 60, 90 and exponential 30, 60, 120
max_delay      no wait is longer (s)
delays         the waits themselves (s), instead of a strategy; the last one repeats
jitter         which part of a wait is left to chance, with exponential_jitter: both (50 to 150 %), up (100 to 150 %),
               down (50 to 100 %)
retry_on       names of exceptions (or of their base classes) that are tried again; empty: all
not_on         names of exceptions that are not, whatever retry_on says
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError, InvalidInput

MAX_ATTEMPTS = 1000

#: No wait may be longer (s).
LONGEST_DELAY = 366 * 24 * 3600.0

#: Attempts that a preview shows of a policy without an end.
_SHOWN = 10

_MOST_NAMES = 50
_LONGEST_NAME = 200


class Strategy(StrEnum):
    """How waits grow."""

    NONE = "none"
    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    EXPONENTIAL_JITTER = "exponential_jitter"


class Jitter(StrEnum):
    """Which way chance may move a wait."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


_BOUNDS: Mapping[Jitter, tuple[float, float]] = {
    Jitter.UP: (1.0, 1.5),
    Jitter.DOWN: (0.5, 1.0),
    Jitter.BOTH: (0.5, 1.5),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """See the module. `decides` tells whether it, and not the task's own options, says what is tried again."""

    max_attempts: int | None = None
    strategy: Strategy = Strategy.NONE
    delay: float = 30.0
    max_delay: float = 3600.0
    delays: tuple[float, ...] | None = None
    jitter: Jitter = Jitter.BOTH
    retry_on: tuple[str, ...] = ()
    not_on: tuple[str, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether anything but the number of attempts was said."""
        return self.strategy is not Strategy.NONE or self.delays is not None

    def is_retryable(self, names: Collection[str]) -> bool:
        """Whether an exception with these names (its own and its bases', plain or with the module) is tried again."""
        if any(name in self.not_on for name in names):
            return False
        return not self.retry_on or any(name in self.retry_on for name in names)

    def compute_wait_bounds(self, retry: int) -> tuple[float, float]:
        """The shortest and the longest wait (s) before the `retry`-th retry, which counts from 1."""
        if self.delays is not None:
            wait = self.delays[min(retry, len(self.delays)) - 1]
            return wait, wait
        wait = self.delay * self._compute_growth(retry)
        if self.strategy is not Strategy.EXPONENTIAL_JITTER:
            return min(wait, self.max_delay), min(wait, self.max_delay)
        low, high = _BOUNDS[self.jitter]
        wait = min(wait, self.max_delay)
        return min(wait * low, self.max_delay), min(wait * high, self.max_delay)

    def compute_wait(self, retry: int, chance: float) -> float:
        """The wait (s) before the `retry`-th retry; `chance` is 0 to 1."""
        low, high = self.compute_wait_bounds(retry)
        return low + (high - low) * chance

    def compute_next_wait(self, names: Collection[str], used: int, limit: int | None, chance: float) -> float | None:
        """The wait (s) before another attempt, after a failure with these names; None: there is none.

        `used` retries were used up so far, of `limit` (None: any number); `chance` is 0 to 1.
        """
        if not self.is_retryable(names) or (limit is not None and used >= limit):
            return None
        return self.compute_wait(used + 1, chance)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
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
        if self.strategy is Strategy.FIXED:
            return 1.0
        if self.strategy is Strategy.LINEAR:
            return float(retry)
        # 2 ** 60 seconds is beyond any maximum, and floats have an end.
        return 2.0 ** min(retry - 1, 60)


def parse(given: object, where: str = "/retry") -> RetryPolicy:
    """The policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    policy = RetryPolicy(
        max_attempts=read.get_integer("max_attempts", 1, MAX_ATTEMPTS),
        strategy=Strategy(read.get_choice("strategy", list(Strategy), Strategy.NONE)),
        delay=read.get_seconds("delay", 0.0, LONGEST_DELAY, 30.0) or 0.0,
        max_delay=read.get_seconds("max_delay", 0.0, LONGEST_DELAY, 3600.0) or 0.0,
        delays=read.get_durations("delays", 0.0, LONGEST_DELAY, MAX_ATTEMPTS),
        jitter=Jitter(read.get_choice("jitter", list(Jitter), Jitter.BOTH)),
        retry_on=read.get_texts("retry_on", _LONGEST_NAME, _MOST_NAMES),
        not_on=read.get_texts("not_on", _LONGEST_NAME, _MOST_NAMES),
    )
    if policy.delays is not None and policy.strategy is not Strategy.NONE:
        read.add_problem("delays", "ambiguous", "give delays or a strategy, not both")
    if not policy.decides and (policy.retry_on or policy.not_on):
        read.add_problem("strategy", "missing", "retry_on and not_on need a strategy or delays")
    read.finish()
    return policy


def names_of(kind: type[BaseException]) -> list[str]:
    """By which names a policy knows this exception: its own and its bases', plain and with the module."""
    bases = [base for base in kind.__mro__ if issubclass(base, BaseException)]
    return [name for base in bases for name in (base.__qualname__, f"{base.__module__}.{base.__qualname__}")]


@dataclass(frozen=True, slots=True)
class PlannedAttempt:
    """One attempt of a plan: its number, the wait before it (s), and when it is due; earliest and latest.

    As if each attempt failed at once.
    """

    attempt: int
    wait: tuple[float, float]
    due: tuple[dt.datetime, dt.datetime]


def preview(described: object, start: dt.datetime, attempts: int | None = None) -> Sequence[PlannedAttempt]:
    """What the policy in a request would do; raises `InvalidInput`. `attempts`: how many to tell at most."""
    policy = parse(described)
    if not policy.decides:
        message = "there is nothing to preview: without a strategy or delays the task's own options decide"
        raise InvalidInput(message, [FieldError("/retry/strategy", "missing", message)])
    if attempts is not None and not 1 <= attempts <= MAX_ATTEMPTS:
        message = f"attempts must be 1 to {MAX_ATTEMPTS}"
        raise InvalidInput(message, [FieldError("/attempts", "not_allowed", message)])
    told = attempts or policy.max_attempts or _SHOWN
    try:
        return plan(policy, start, min(told, policy.max_attempts or told))
    except OverflowError:
        message = "the last attempts would be after the end of all calendars"
        raise InvalidInput(message, [FieldError("/from", "too_far", message)]) from None


def plan(policy: RetryPolicy, start: dt.datetime, attempts: int) -> Sequence[PlannedAttempt]:
    """The first `attempts` attempts of an execution that starts at `start` and never succeeds."""
    planned = [PlannedAttempt(1, (0.0, 0.0), (start, start))]
    for retry in range(1, attempts):
        low, high = policy.compute_wait_bounds(retry)
        earliest, latest = planned[-1].due
        due = (earliest + dt.timedelta(seconds=low), latest + dt.timedelta(seconds=high))
        planned.append(PlannedAttempt(retry + 1, (low, high), due))
    return planned
