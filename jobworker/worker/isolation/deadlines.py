"""Deadlines of a program: when it is notified, terminated and killed for its time limits or a cancellation."""

from collections.abc import Callable, Iterator
from enum import Enum, StrEnum

from jobworker.clock import Clock

#: Time in which a cancelled program may end by itself, before it gets a signal (s).
CANCEL_TIMEOUT_SECONDS = 3.0

#: Time in which a terminated program may end, before it is killed (s).
TERMINATE_TIMEOUT_SECONDS = 2.0

#: Maximum time from the start of an isolated process until its job begins (s).
STARTUP_TIMEOUT_SECONDS = 60.0


class DeadlineAction(Enum):
    """An action that is due."""

    NOTIFY_SOFT_LIMIT = "tell_soft_limit"
    NOTIFY_CANCELLED = "tell_cancelled"
    TERMINATE = "terminate"
    END = "end"


class StopReason(StrEnum):
    """The reason why a program was terminated."""

    HARD_LIMIT = "hard time limit"
    CANCELLED = "cancelled"
    NOT_STARTED = "never began"


class ProgramDeadlines:
    """The deadlines of one program; limits are in seconds. `stop_reason` is set when the program has to end."""

    def __init__(
        self,
        clock: Clock,
        soft: float | None = None,
        hard: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.soft = soft
        self.hard = hard
        self.stop_reason: StopReason | None = None
        self._clock = clock
        self._cancelled = cancelled
        self._created_at = clock.monotonic()
        self._started_at: float | None = None
        self._cancel_notified_at: float | None = None
        self._end_at: float | None = None
        #: Soft limit of which the program was notified; if the limit is extended, the program is notified again.
        self._notified_soft_limit: float | None = None

    @property
    def soft_limit_passed(self) -> bool:
        """True if the soft limit has passed and the program was notified."""
        return self._notified_soft_limit is not None

    def start(self) -> None:
        """Start the time limits, when the job begins."""
        self._started_at = self._clock.monotonic()

    def extend(self, seconds: float) -> None:
        """Extend both limits by `seconds`."""
        self.soft = self.soft and self.soft + seconds
        self.hard = self.hard and self.hard + seconds

    def mark_ended(self) -> None:
        """Record that the job has ended, so that its process has to end soon."""
        self._end_at = self._end_at or self._clock.monotonic() + TERMINATE_TIMEOUT_SECONDS

    def take_due_actions(self) -> Iterator[DeadlineAction]:
        """Yield the actions that became due since the last call."""
        now = self._clock.monotonic()
        if self._end_at is not None:
            if now >= self._end_at:
                yield DeadlineAction.END
            return
        if self._cancel_notified_at is None and self._cancelled():
            self._cancel_notified_at = now
            yield DeadlineAction.NOTIFY_CANCELLED
        self.stop_reason = self._find_stop_reason(now)
        if self.stop_reason is not None:
            self._end_at = now + TERMINATE_TIMEOUT_SECONDS
            yield DeadlineAction.TERMINATE
        elif self._has_passed(self.soft, now) and self._notified_soft_limit != self.soft:
            self._notified_soft_limit = self.soft
            yield DeadlineAction.NOTIFY_SOFT_LIMIT

    def _find_stop_reason(self, now: float) -> StopReason | None:
        if self._cancel_notified_at is not None and now >= self._cancel_notified_at + CANCEL_TIMEOUT_SECONDS:
            return StopReason.CANCELLED
        if self._started_at is None:
            return StopReason.NOT_STARTED if now >= self._created_at + STARTUP_TIMEOUT_SECONDS else None
        return StopReason.HARD_LIMIT if self._has_passed(self.hard, now) else None

    def _has_passed(self, limit: float | None, now: float) -> bool:
        return limit is not None and self._started_at is not None and now >= self._started_at + limit
