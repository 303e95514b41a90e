"""Checks of submissions and job definitions that need no database.

Each check lists every problem with its place, so that the sender can correct all of them at once.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.executions.execution import PRIORITIES, ExecutionState
from jobworker.domain.jobs import circuit_breaker, isolation, limits, parameters, policies
from jobworker.domain.jobs import definition as job
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.json.json_reader import validate_prose
from jobworker.domain.schedules import schedule
from jobworker.domain.submissions import start_deadline
from jobworker.domain.workflows import dependency, result_references

#: Maximum age of a due time that still counts as now (s), because the clocks of two hosts differ slightly.
CLOCK_SKEW_SECONDS = 60.0

#: Maximum time until an execution is due (days): a later time is a typing error.
MAX_DAYS_AHEAD = 3653

#: Maximum time limit (s): Redis drops the data of a running attempt after this time.
MAX_TIME_LIMIT_SECONDS = 30 * 24 * 3600.0

MAX_CORRELATION_ID_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 10_000
MAX_TAGS = 50
MAX_TAG_LENGTH = 64


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
    problems = [*_validate_routing(submission.queue, submission.priority, where)]
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


def validate_definition(definition: job.JobDefinition, accepted: Sequence[Parameter]) -> list[FieldError]:
    """Return the problems of a definition of a job whose task accepts these parameters."""
    return [
        *_validate_naming(definition),
        *_validate_routing(definition.queue, definition.priority, ""),
        *validate_time_limits(definition.time_limit, definition.soft_time_limit),
        *start_deadline.validate_expires(definition.expires, ""),
        *_validate_defaults(definition, accepted),
        *_validate_schedule(definition),
        *_validate_triggers(definition, accepted),
        *_validate_policies(definition, accepted),
        *_validate_container(definition),
        *_validate_circuit(definition),
    ]


def raise_for_problems(problems: Sequence[FieldError]) -> None:
    """Raise `InvalidInput` if there is any problem."""
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)


def _validate_routing(queue: str | None, priority: int | None, where: str) -> Iterator[FieldError]:
    if queue is not None and not job.QUEUE_NAME_PATTERN.match(queue):
        message = f"queue must {job.QUEUE_NAME_FORM}"
        yield FieldError(f"{where}/queue", "not_allowed", message)
    if priority is not None and priority not in PRIORITIES:
        message = f"priority must be {PRIORITIES.start} to {PRIORITIES.stop - 1}; {PRIORITIES.stop - 1} is most urgent"
        yield FieldError(f"{where}/priority", "not_allowed", message)


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


def _validate_naming(definition: job.JobDefinition) -> Iterator[FieldError]:
    if not job.NAME_PATTERN.match(definition.name):
        message = "name must begin with a letter or digit and have at most 128 characters of A-Z a-z 0-9 _ . : -"
        yield FieldError("/name", "not_allowed", message)
    if len(definition.description) > MAX_DESCRIPTION_LENGTH:
        yield FieldError("/description", "too_long", f"description has more than {MAX_DESCRIPTION_LENGTH} characters")
    yield from validate_prose("/description", definition.description)
    if len(definition.tags) > MAX_TAGS or any(
        not 0 < len(tag) <= MAX_TAG_LENGTH or not tag.isprintable() for tag in definition.tags
    ):
        yield FieldError(
            "/tags", "not_allowed", f"at most {MAX_TAGS} tags of 1 to {MAX_TAG_LENGTH} printable characters"
        )


def validate_time_limits(hard: float | None, soft: float | None, where: str = "") -> Iterator[FieldError]:
    """Yield the problems of two time limits (s)."""
    for name, limit in (("time_limit", hard), ("soft_time_limit", soft)):
        if limit is not None and not 0 < limit <= MAX_TIME_LIMIT_SECONDS:
            message = f"{name} must be more than 0 and at most {MAX_TIME_LIMIT_SECONDS / 86400:g} days"
            yield FieldError(f"{where}/{name}", "not_allowed", message)
    if hard is not None and soft is not None and soft >= hard:
        message = "soft_time_limit must be shorter than time_limit"
        yield FieldError(f"{where}/soft_time_limit", "not_allowed", message)


def _validate_policies(definition: job.JobDefinition, accepted: Sequence[Parameter]) -> Iterable[FieldError]:
    normalized, problems = policies.normalize(definition.policies)
    return [*problems, *limits.validate_keys(normalized, accepted)]


def _validate_defaults(definition: job.JobDefinition, accepted: Iterable[Parameter]) -> Iterable[FieldError]:
    """Yield problems of the defaults.

    They need not be complete, unless a schedule starts the job without parameters.
    """
    complete = definition.schedule is not None
    needed = [parameter if complete else replace(parameter, required=False) for parameter in accepted]
    try:
        parameters.check(needed, definition.defaults, where="/defaults")
    except InvalidInput as error:
        return error.errors
    return ()


def _validate_container(definition: job.JobDefinition) -> Iterator[FieldError]:
    """Yield a problem unless the container mode and the container task are used together."""
    isolation_policy = definition.policies.get("isolation")
    in_container = (
        isinstance(isolation_policy, Mapping) and isolation_policy.get("mode") == isolation.IsolationMode.CONTAINER
    )
    is_container_task = definition.task == isolation.CONTAINER_TASK
    if in_container and not is_container_task:
        message = f"in a container the image's command is the job: task must be {isolation.CONTAINER_TASK}"
        yield FieldError("/task", "not_allowed", message)
    if is_container_task and not in_container:
        message = f"{isolation.CONTAINER_TASK} needs isolation with the mode container, and an image"
        yield FieldError("/isolation", "missing", message)


def _validate_circuit(definition: job.JobDefinition) -> Iterator[FieldError]:
    if definition.policies.get("circuit") is not None and definition.task != circuit_breaker.CIRCUIT_TASK:
        message = f"only {circuit_breaker.CIRCUIT_TASK} leaves targets alone: circuit is for definitions of this task"
        yield FieldError("/circuit", "not_allowed", message)


def _validate_triggers(definition: job.JobDefinition, accepted: Sequence[Parameter]) -> Iterator[FieldError]:
    """Yield problems of triggers: their parameters and the defaults together must be complete."""
    try:
        triggers = definition.triggers
    except InvalidInput:  # `_validate_policies` reports the problems of the policy.
        return
    for at, trigger in enumerate(triggers):
        where = format_pointer("trigger_after", at, "parameters")
        try:
            relaxed_parameters = parameters.accept_any_value(
                accepted, result_references.find_referring_parameters(trigger.parameters)
            )
            parameters.check(relaxed_parameters, {**definition.defaults, **trigger.parameters}, where)
        except InvalidInput as error:
            yield from error.errors


def _validate_schedule(definition: job.JobDefinition) -> Iterable[FieldError]:
    if definition.schedule is None:
        return ()
    try:
        schedule.parse_job_schedule(definition.name, definition.schedule)
    except InvalidInput as error:
        return error.errors
    return ()
