"""Schemas of submissions and executions."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, DateTimeField, DurationField, StrictIntegerField
from jobworker.api.schemas.base import (
    PageQuerySchema,
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    number_field,
    text_field,
)
from jobworker.api.schemas.files import ResultFileSchema
from jobworker.api.schemas.filters import ExecutionFilterSchema, check_id, check_text
from jobworker.api.schemas.policies import policy_field
from jobworker.domain.executions.dead_letter import DeadLetterStatus
from jobworker.domain.executions.execution import PRIORITIES, AttemptState, ExecutionState
from jobworker.domain.jobs import definition
from jobworker.domain.submissions.submission import MAX_CORRELATION_ID_LENGTH, Submission
from jobworker.domain.workflows.dependency import (
    MAX_PARENTS,
    DependencyResolution,
    RequiredOutcome,
    UnmetDependencyAction,
)
from jobworker.services.submissions.submission import MAX_BATCH_SIZE

STATES = [state.value for state in ExecutionState]
_TIME_LIMIT = {"type": ["number", "string"], "description": "Limit in seconds or ISO 8601; null: set by the job."}


def describe_condition(name: str) -> dict[str, Any]:
    """Return the schema of a dependency: a string that names the parent, or an object with it as property `name`."""
    parent = {"type": "string"}
    on, otherwise = (
        {"enum": [*(word.value for word in words), None]} for words in (RequiredOutcome, UnmetDependencyAction)
    )
    properties = {name: parent, "on": on, "otherwise": otherwise}
    detailed = {"type": "object", "required": [name], "properties": properties, "additionalProperties": False}
    return {"anyOf": [parent, detailed]}


class SubmissionBodySchema(StrictSchema):
    """Submission of an execution. All fields are optional."""

    parameters = fields.Dict(load_default=dict, metadata={"example": {"user_id": "u-17", "format": "csv"}})
    due_at = DateTimeField(load_default=None, allow_none=True, metadata={"type": "string", "format": "date-time"})
    delay = DurationField(
        load_default=None,
        allow_none=True,
        metadata={
            "type": ["number", "string"],
            "description": "Alternative to due_at: seconds from now, or ISO 8601 such as PT1H30M.",
        },
    )
    priority = StrictIntegerField(
        load_default=None,
        allow_none=True,
        metadata={
            "minimum": PRIORITIES.start,
            "maximum": PRIORITIES.stop - 1,
            "description": "Priority, 9 is the most urgent; null: set by the job.",
        },
    )
    queue = fields.String(
        load_default=None,
        allow_none=True,
        metadata={"pattern": f"^{definition.QUEUE_NAME_PATTERN.pattern.removesuffix(chr(92) + 'Z')}$"},
    )
    correlation_id = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "maxLength": MAX_CORRELATION_ID_LENGTH,
            "description": "Correlation id; null: the id of the execution.",
        },
    )

    time_limit = DurationField(load_default=None, allow_none=True, metadata=_TIME_LIMIT)
    soft_time_limit = DurationField(load_default=None, allow_none=True, metadata=_TIME_LIMIT)
    expires = DurationField(
        load_default=None,
        allow_none=True,
        metadata={
            **_TIME_LIMIT,
            "description": "Time after `due_at` within which the execution must start; otherwise it expires.",
        },
    )
    expires_at = DateTimeField(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "Alternative to expires: time by which the execution must start.",
        },
    )
    retry = policy_field("retry")
    depends_on = fields.Raw(
        load_default=(),
        metadata={
            "type": "array",
            "items": describe_condition("execution"),
            "maxItems": MAX_PARENTS,
            "description": "Executions that must end first: ids, or objects with execution, on (success, failure, any) "
            "and otherwise (skip, fail, continue).",
        },
    )


class BatchItemSchema(SubmissionBodySchema):
    """Execution of a batch in a request."""

    job = fields.String(required=True)

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Submission:
        """Convert the body to the input of the use case."""
        return Submission(**data)


class CompletionBodySchema(StrictSchema):
    """Job that runs when the last execution has ended. Its parameters may refer to `{"$from": "batch"}`."""

    job = fields.String(required=True)
    parameters = fields.Dict(
        load_default=dict, metadata={"example": {"failed": {"$from": "batch", "path": "/counts/Failed"}}}
    )
    queue = fields.String(load_default=None, allow_none=True)
    priority = StrictIntegerField(
        load_default=None, allow_none=True, metadata={"minimum": PRIORITIES.start, "maximum": PRIORITIES.stop - 1}
    )

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Submission:
        """Convert the body to the input of the use case."""
        return Submission(**data)


class BatchBodySchema(StrictSchema):
    """Batch of executions that are accepted together or not at all."""

    name = fields.String(load_default=None, allow_none=True, metadata={"maxLength": 128})
    on_complete = fields.Nested(CompletionBodySchema, load_default=None, allow_none=True)
    executions = fields.List(
        fields.Nested(BatchItemSchema), required=True, metadata={"minItems": 1, "maxItems": MAX_BATCH_SIZE}
    )

    @ma.pre_load
    def check_size(self, data: Any, **_: Any) -> Any:
        """Raise an error for a batch that is too long before its items are parsed."""
        items = data.get("executions") if isinstance(data, Mapping) else None
        if isinstance(items, list) and not 0 < len(items) <= MAX_BATCH_SIZE:
            message = CodedMessage("not_allowed", f"must have 1 to {MAX_BATCH_SIZE} items, not {len(items)}")
            raise ma.ValidationError(message, "executions")
        return data


class ExecutionQuerySchema(ExecutionFilterSchema, PageQuerySchema):
    """Query parameters of the list of executions."""

    rerun_of = fields.String(metadata={"description": "Filter: reruns of this execution."})
    schedule = fields.String(
        load_default=None,
        validate=check_text,
        metadata={
            "description": "Filter: executions of this schedule, by its name or id; a deleted schedule by its id."
        },
    )

    @ma.validates("rerun_of")
    def check_rerun_of(self, value: str, data_key: str) -> None:
        """Raise an error for an id that cannot exist, instead of returning an empty list."""
        check_id(value)


class FailureSchema(ResponseSchema):
    """Failure of a job."""

    type = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    traceback = fields.String(allow_none=True)


class ProgressSchema(ResponseSchema):
    """Progress that a job reported."""

    attempt = integer_field("Attempt that reported the progress.")
    done = fields.Float(allow_none=True)
    total = fields.Float(allow_none=True)
    message = fields.String(allow_none=True)


class ExecutionSchema(ResponseSchema):
    """Execution of a job."""

    id = fields.String()
    job = fields.String()
    job_revision = integer_field("Revision of the job definition when the execution was accepted.")
    task = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = text_field("Reason for the state, or reason why the execution cannot run now.", allow_none=True)
    attempt = integer_field("Number of the latest attempt; 0 before the first.")
    max_attempts = integer_field("Maximum number of attempts; null: set by the task.", allow_none=True)
    queue = fields.String()
    priority = fields.Integer()
    parameters = fields.Dict()
    result = fields.Raw(allow_none=True, metadata={"description": "Return value of the job."})
    result_file = fields.Nested(
        ResultFileSchema,
        allow_none=True,
        metadata={"description": "File with the result, if it is too long for `result`."},
    )
    error = fields.Nested(FailureSchema, allow_none=True)
    progress = fields.Nested(ProgressSchema, allow_none=True)
    metadata = fields.Dict(
        allow_none=True, metadata={"description": "Metadata that the job stored with its execution."}
    )
    worker = text_field("Worker that started the latest attempt.", allow_none=True)
    code_version = text_field("Version of the code that the worker ran.", allow_none=True)
    correlation_id = fields.String()
    overrides = fields.Dict(allow_none=True, metadata={"description": "Overrides of the job's definition."})
    batch_id = fields.String(allow_none=True)
    step = text_field("Name of the step in its workflow.", allow_none=True)
    waiting_for = integer_field(
        "Number of parents that have not ended; null: the execution has no dependencies.", allow_none=True
    )
    triggered_by = text_field("Execution whose end triggered this one.", allow_none=True)
    schedule_id = fields.String(allow_none=True)
    scheduled_for = datetime_field("Nominal time of its occurrence.", allow_none=True)
    created_at = datetime_field("Time when the execution was accepted.")
    created_by = fields.String()
    due_at = datetime_field("Time from which the execution may start.")
    expires_at = datetime_field("Time by which the first attempt must start.", allow_none=True)
    dispatched_at = datetime_field("Time when its message was published to Redis.", allow_none=True)
    started_at = datetime_field("Time when the latest attempt started.", allow_none=True)
    finished_at = datetime_field("Time when the execution ended.", allow_none=True)
    cancel_requested_at = datetime_field("Time when cancellation was requested.", allow_none=True)
    cancel_requested_by = fields.String(allow_none=True)
    rerun_of = text_field("Execution that this one reruns.", allow_none=True)
    dead_letter = text_field(
        "`open`: the execution failed for good and awaits a decision; `redriven` or `discarded`: the decision.",
        allow_none=True,
        validate=ma.validate.OneOf([status.value for status in DeadLetterStatus]),
    )
    dead_letter_at = datetime_field("Time of the decision.", allow_none=True)
    dead_letter_by = text_field("Actor that made the decision.", allow_none=True)
    dead_letter_note = text_field("Note on the decision.", allow_none=True)
    fingerprint = text_field("Hash of the kind of failure; only of dead letters.", allow_none=True)
    concurrency_key = text_field("Limit key by which the number of running executions is limited.", allow_none=True)
    rate_key = text_field("Limit key by which the rate of starts is limited.", allow_none=True)
    unique_key = text_field("Unique key of the execution.", allow_none=True)
    links = fields.Dict(values=fields.String())


class ResultSchema(ResponseSchema):
    """Result or failure of an execution that has ended."""

    id = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = fields.String(allow_none=True)
    result = fields.Raw(allow_none=True)
    result_file = fields.Nested(
        ResultFileSchema,
        allow_none=True,
        metadata={"description": "File with the result, if it is too long for `result`."},
    )
    error = fields.Nested(FailureSchema, allow_none=True)
    finished_at = datetime_field("Time when the execution ended.", allow_none=True)


class BatchSchema(ResponseSchema):
    """Batch that was accepted."""

    batch_id = fields.String()
    count = fields.Integer()
    ids = fields.List(fields.String(), metadata={"description": "Ids of the executions, in the order of the request."})
    links = fields.Dict(values=fields.String())


class AttemptSchema(ResponseSchema):
    """Attempt that a worker started."""

    attempt = fields.Integer()
    state = fields.String(validate=ma.validate.OneOf([state.value for state in AttemptState]))
    reason = fields.String(allow_none=True)
    worker = fields.String(allow_none=True)
    code_version = fields.String(allow_none=True)
    started_at = datetime_field("Time when the attempt started.", allow_none=True)
    finished_at = datetime_field("Time when the attempt ended.", allow_none=True)
    runtime = number_field("Run time of the job (s).", allow_none=True)
    error = fields.Nested(FailureSchema, allow_none=True)


class TransitionSchema(ResponseSchema):
    """State transition."""

    attempt = fields.Integer()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    at = datetime_field("Time of the transition.")
    actor = text_field("Actor of the transition: api, relay, worker:…")
    reason = text_field("Reason for the transition.", allow_none=True)


class DependencySchema(ResponseSchema):
    """Dependency of an execution on a parent."""

    execution_id = fields.String()
    job = text_field("Job of the parent; null: the parent was deleted.", allow_none=True)
    state = fields.String(allow_none=True, metadata={"enum": [*STATES, None]})
    step = text_field("Name of the parent in its workflow.", allow_none=True)
    on = fields.String(validate=ma.validate.OneOf([outcome.value for outcome in RequiredOutcome]))
    otherwise = fields.String(validate=ma.validate.OneOf([action.value for action in UnmetDependencyAction]))
    outcome = fields.String(
        allow_none=True,
        metadata={
            "enum": [*(resolution.value for resolution in DependencyResolution), None],
            "description": "Outcome of the dependency; null: the parent has not ended.",
        },
    )
    settled_at = datetime_field("Time when the dependency was resolved.", allow_none=True)


class LogLineSchema(ResponseSchema):
    """Line of a job's log."""

    seq = text_field("Sequence number; sorts as text.")
    attempt = fields.Integer()
    at = datetime_field("Time when the line was logged.")
    level = fields.String()
    logger = fields.String()
    message = fields.String()
