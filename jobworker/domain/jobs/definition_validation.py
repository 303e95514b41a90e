"""Checks of job definitions that need no database.

Each check lists every problem with its place, so that the sender can correct all of them at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.executions.execution import PRIORITIES
from jobworker.domain.jobs import circuit_breaker, isolation, limits, parameters, policies
from jobworker.domain.jobs import definition as job
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.json.json_reader import validate_prose
from jobworker.domain.schedules import schedule
from jobworker.domain.submissions import start_deadline
from jobworker.domain.workflows import result_references

#: Maximum time limit (s): Redis drops the data of a running attempt after this time.
MAX_TIME_LIMIT_SECONDS = 30 * 24 * 3600.0

MAX_DESCRIPTION_LENGTH = 10_000
MAX_TAGS = 50
MAX_TAG_LENGTH = 64


def validate_definition(definition: job.JobDefinition, accepted: Sequence[Parameter]) -> list[FieldError]:
    """Return the problems of a definition of a job whose task accepts these parameters."""
    return [
        *_validate_naming(definition),
        *validate_routing(definition.queue, definition.priority, ""),
        *validate_time_limits(definition.time_limit, definition.soft_time_limit),
        *start_deadline.validate_expires(definition.expires, ""),
        *_validate_defaults(definition, accepted),
        *_validate_schedule(definition),
        *_validate_triggers(definition, accepted),
        *_validate_policies(definition, accepted),
        *_validate_container(definition),
        *_validate_circuit(definition),
    ]


def validate_routing(queue: str | None, priority: int | None, where: str) -> Iterator[FieldError]:
    """Yield the problems of a queue's name and a priority."""
    if queue is not None and not job.QUEUE_NAME_PATTERN.match(queue):
        message = f"queue must {job.QUEUE_NAME_FORM}"
        yield FieldError(f"{where}/queue", "not_allowed", message)
    if priority is not None and priority not in PRIORITIES:
        message = f"priority must be {PRIORITIES.start} to {PRIORITIES.stop - 1}; {PRIORITIES.stop - 1} is most urgent"
        yield FieldError(f"{where}/priority", "not_allowed", message)


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
