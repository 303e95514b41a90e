"""Requests to run a job, with the checks that need no database.

Each check lists every problem with its place, so that the sender can correct all of them at once.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition_validation import validate_routing, validate_time_limits
from jobworker.domain.submissions import start_deadline
from jobworker.domain.workflows import dependency

#: Maximum age of a due time that still counts as now (s), because the clocks of two hosts differ slightly.
CLOCK_SKEW_SECONDS = 60.0

#: Maximum time until an execution is due (days): a later time is a typing error.
MAX_DAYS_AHEAD = 3653

MAX_CORRELATION_ID_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request to run a job. A field with the value None leaves the choice to the job's definition.

    `delay` is in seconds; so is `expires`, counted from the due time.
    """

    job: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    due_at: dt.datetime | None = None
    delay: float | None = None
    priority: int | None = None
    queue: str | None = None
    correlation_id: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    expires: float | None = None
    expires_at: dt.datetime | None = None
    retry: Mapping[str, Any] | None = None
    depends_on: Sequence[Any] = ()

    def compute_overrides(self) -> dict[str, Any] | None:
        """Return the overrides of the job's definition, as stored with the execution; for a checked submission."""
        limits = {"time_limit": self.time_limit, "soft_time_limit": self.soft_time_limit}
        own, _ = policies.normalize(self._policies())
        overrides = {**limits, **{name: own[name] for name, value in self._policies().items() if value is not None}}
        return {name: value for name, value in overrides.items() if value is not None} or None

    def _policies(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in policies.OVERRIDABLE_POLICIES}


def validate_submission(submission: Submission, now: dt.datetime, where: str = "") -> list[FieldError]:
    """Return the problems of a submission except those of its parameters; pointers begin with `where`."""
    problems = [*validate_routing(submission.queue, submission.priority, where)]
    correlation_id = submission.correlation_id
    if correlation_id is not None and not (
        0 < len(correlation_id) <= MAX_CORRELATION_ID_LENGTH and correlation_id.isprintable()
    ):
        message = f"correlation_id must have 1 to {MAX_CORRELATION_ID_LENGTH} printable characters"
        problems.append(FieldError(f"{where}/correlation_id", "not_allowed", message))
    problems.extend(_validate_due_time(submission, now, where))
    problems.extend(validate_time_limits(submission.time_limit, submission.soft_time_limit, where))
    problems.extend(_validate_expiry(submission, now, where))
    problems.extend(policies.normalize(submission._policies(), where)[1])
    problems.extend(_validate_dependencies(submission.depends_on, where))
    return problems


def compute_due_at_and_state(submission: Submission, now: dt.datetime) -> tuple[dt.datetime, ExecutionState]:
    """Return the due time and the initial state of a checked submission."""
    due_at = submission.due_at or now + dt.timedelta(seconds=submission.delay or 0)
    return (due_at, ExecutionState.SCHEDULED) if due_at > now else (now, ExecutionState.QUEUED)


def compute_expires(submission: Submission, due_at: dt.datetime) -> float | None:
    """Return the start deadline that a checked submission sets, in seconds after `due_at`; None if it sets none."""
    if submission.expires_at is not None:
        return (submission.expires_at - due_at).total_seconds()
    return submission.expires


def _validate_dependencies(depends_on: Sequence[Any], where: str) -> Iterable[FieldError]:
    try:
        dependency.parse(depends_on, f"{where}/depends_on")
    except InvalidInput as error:
        return error.errors
    return ()


def _validate_due_time(submission: Submission, now: dt.datetime, where: str) -> Iterator[FieldError]:
    due_at, delay = submission.due_at, submission.delay
    if due_at is not None and delay is not None:
        yield FieldError(f"{where}/delay", "ambiguous", "give due_at or delay, not both")
        return
    farthest = MAX_DAYS_AHEAD * 24 * 3600.0
    ahead = (due_at - now).total_seconds() if due_at is not None else delay
    name = "due_at" if due_at is not None else "delay"
    if ahead is None:
        return
    if due_at is not None and ahead < -CLOCK_SKEW_SECONDS:
        message = f"due_at {due_at.isoformat()} has passed; leave it out to run now"
        yield FieldError(f"{where}/due_at", "past_time", message)
    elif delay is not None and not delay >= 0:
        yield FieldError(f"{where}/delay", "not_allowed", "delay must not be negative")
    elif ahead > farthest:
        yield FieldError(f"{where}/{name}", "too_far", f"{name} is more than {MAX_DAYS_AHEAD // 365} years ahead")


def _validate_expiry(submission: Submission, now: dt.datetime, where: str) -> Iterator[FieldError]:
    if submission.expires_at is None:
        yield from start_deadline.validate_expires(submission.expires, where)
    elif submission.expires is not None:
        yield FieldError(f"{where}/expires", "ambiguous", "give expires_at or expires, not both")
    elif next(_validate_due_time(submission, now, where), None) is None:
        yield from start_deadline.validate_expires_at(
            submission.expires_at, compute_due_at_and_state(submission, now)[0], now, where
        )
