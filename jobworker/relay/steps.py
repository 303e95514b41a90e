"""The steps of a turn and the relay's maintenance tasks: each fails, pauses and is retried by itself.

Errors that end the turn for all steps are raised: another relay leads, Redis does not respond, or its settings would
lose work. Any other error, of a full Redis for instance, affects its own step only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import redis

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError
from jobworker.relay.problems import RelayProblems

#: Pause after a failure (s), doubled up to the second value.
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 5.0


class NotLeader(Exception):
    """Raised when another relay leads, or has advanced the stream offsets meanwhile."""


_TURN_ENDING_ERRORS = (NotLeader, redis.ConnectionError, redis.TimeoutError, ConfigurationError)


@dataclass(slots=True)
class RelayStep:
    """An action of each turn, or of every `interval` seconds; `run` returns how much it moved, if that matters."""

    name: str
    run: Callable[[], int | None]
    interval: float = 0.0
    next_at: float = float("-inf")
    pause: float = 0.0


class StepRunner:
    """Runs steps so that a failing step does not block the others."""

    def __init__(self, clock: Clock, problems: RelayProblems) -> None:
        self._clock = clock
        self._problems = problems

    def run(self, step: RelayStep) -> int:
        """Run a step if it is due; return how much it moved. Raises errors that end the turn for all steps."""
        if self._clock.monotonic() < step.next_at:
            return 0
        try:
            moved = step.run() or 0
        except _TURN_ENDING_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001  a failing step must not block the others
            self._record_failure(step, error)
            return 0
        if step.pause:
            step.pause = 0.0
            self._problems.clear(_get_problem_name(step))
        step.next_at = self._clock.monotonic() + step.interval
        return moved

    def _record_failure(self, step: RelayStep, error: Exception) -> None:
        step.pause = min(step.pause * 2 or _MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS)
        step.next_at = self._clock.monotonic() + max(step.pause, step.interval)
        self._problems.report("step_failed", _get_problem_name(step), f"{type(error).__name__}: {error}")


def _get_problem_name(step: RelayStep) -> str:
    return f"step {step.name}"
