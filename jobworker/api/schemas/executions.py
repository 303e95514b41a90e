"""Submissions and executions."""

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
from jobworker.api.schemas.filters import ExecutionFilterSchema, check_id, check_text
from jobworker.api.schemas.policies import policy_field
from jobworker.domain.executions.dead_letter import DeadLetterStatus
from jobworker.domain.executions.execution import PRIORITIES, AttemptState, ExecutionState
from jobworker.domain.jobs import admission, definition
from jobworker.domain.jobs.admission import Submission
from jobworker.domain.workflows.dependency import (
    MAX_PARENTS,
    DependencyResolution,
    RequiredOutcome,
    UnmetDependencyAction,
)
from jobworker.services.submissions.submission import MAX_BATCH_SIZE

STATES = [state.value for state in ExecutionState]
_TIME_LIMIT = {"type": ["number", "string"], "description": "null: as the job says."}


def describe_condition(name: str) -> dict[str, Any]:
    """Describe one item of what has to end first: a text that names it, or an object with that text as `name`."""
    parent = {"type": "string"}
    on, otherwise = (
        {"enum": [*(each.value for each in words), None]} for words in (RequiredOutcome, UnmetDependencyAction)
    )
    properties = {name: parent, "on": on, "otherwise": otherwise}
    detailed = {"type": "object", "required": [name], "properties": properties, "additionalProperties": False}
    return {"anyOf": [parent, detailed]}


class SubmissionBodySchema(StrictSchema):
    """What to run, and when. Everything may be left out."""

    parameters = fields.Dict(load_default=dict, metadata={"example": {"user_id": "u-17", "format": "csv"}})
    due_at = DateTimeField(load_default=None, allow_none=True, metadata={"type": "string", "format": "date-time"})
    delay = DurationField(
        load_default=None,
        allow_none=True,
        metadata={
            "type": ["number", "string"],
            "description": "Instead of due_at: seconds, or ISO 8601 such as PT1H30M.",
        },
    )
    priority = StrictIntegerField(
        load_default=None,
        allow_none=True,
        metadata={
            "minimum": PRIORITIES.start,
            "maximum": PRIORITIES.stop - 1,
            "description": "9 is the most urgent; null: as the job says.",
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
        metadata={"maxLength": admission.MAX_CORRELATION_ID_LENGTH, "description": "null: the id of the execution."},
    )

    time_limit = DurationField(load_default=None, allow_none=True, metadata=_TIME_LIMIT)
    soft_time_limit = DurationField(load_default=None, allow_none=True, metadata=_TIME_LIMIT)
    expires = DurationField(
        load_default=None,
        allow_none=True,
        metadata={**_TIME_LIMIT, "description": "It starts within so long after it is due, or not at all."},
    )
    expires_at = DateTimeField(
        load_default=None,
        allow_none=True,
        metadata={"type": "string", "format": "date-time", "description": "Instead of expires: it starts by then."},
    )
    retry = policy_field("retry")
    depends_on = fields.Raw(
        load_default=(),
        metadata={
            "type": "array",
            "items": describe_condition("execution"),
            "maxItems": MAX_PARENTS,
            "description": "Executions that have to end first: ids, or objects with execution, on (success, failure, "
            "any) and otherwise (skip, fail, continue).",
        },
    )


class BatchItemSchema(SubmissionBodySchema):
    """One execution of a batch."""

    job = fields.String(required=True)

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Submission:
        """What the use case takes."""
        return Submission(**data)


class CompletionBodySchema(StrictSchema):
    """The job that runs when the last execution has ended. Its parameters may refer to `{"$from": "batch"}`."""

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
        """What the use case takes."""
        return Submission(**data)


class BatchBodySchema(StrictSchema):
    """Many executions that are accepted together or not at all."""

    name = fields.String(load_default=None, allow_none=True, metadata={"maxLength": 128})
    on_complete = fields.Nested(CompletionBodySchema, load_default=None, allow_none=True)
    executions = fields.List(
        fields.Nested(BatchItemSchema), required=True, metadata={"minItems": 1, "maxItems": MAX_BATCH_SIZE}
    )

    @ma.pre_load
    def check_size(self, data: Any, **_: Any) -> Any:
        """Refuse a batch that is too long before its items are looked at."""
        items = data.get("executions") if isinstance(data, Mapping) else None
        if isinstance(items, list) and not 0 < len(items) <= MAX_BATCH_SIZE:
            message = CodedMessage("not_allowed", f"must have 1 to {MAX_BATCH_SIZE} items, not {len(items)}")
            raise ma.ValidationError(message, "executions")
        return data


class ExecutionQuerySchema(ExecutionFilterSchema, PageQuerySchema):
    """Which executions to list."""

    rerun_of = fields.String(metadata={"description": "Those that ran this execution again."})
    schedule = fields.String(
        load_default=None,
        validate=check_text,
        metadata={"description": "Those that this schedule started: its name, or its id, also after it was removed."},
    )

    @ma.validates("rerun_of")
    def check_rerun_of(self, value: str, data_key: str) -> None:
        """An id that cannot exist is a mistake, not an empty list."""
        check_id(value)


class FailureSchema(ResponseSchema):
    """What went wrong in a job."""

    type = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    traceback = fields.String(allow_none=True)


class ProgressSchema(ResponseSchema):
    """How far a job says it is."""

    attempt = integer_field("The attempt that said so.")
    done = fields.Float(allow_none=True)
    total = fields.Float(allow_none=True)
    message = fields.String(allow_none=True)


class ResultFileSchema(ResponseSchema):
    """A result that is too long for the database."""

    name = fields.String()
    size = integer_field("Bytes of JSON.")
    sha256 = text_field("Of the file, in hexadecimal.")
    host = text_field("Where the worker wrote it.")
    url = text_field("Where to download it, if the API has it.")


class KeptFileSchema(ResponseSchema):
    """A file that a job left behind."""

    name = fields.String()
    size = integer_field("Bytes.")
    sha256 = text_field("Known of results.", allow_none=True)
    modified_at = datetime_field("When it was written; null: it is not here.", allow_none=True)
    host = text_field("Where it is.")
    here = fields.Boolean(metadata={"description": "Whether this host has it."})
    links = fields.Dict(values=fields.String())


class ExecutionSchema(ResponseSchema):
    """One execution of a job."""

    id = fields.String()
    job = fields.String()
    job_revision = integer_field("The revision of the definition that it was accepted under.")
    task = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = text_field("Why it is in this state, or why it cannot run now.", allow_none=True)
    attempt = integer_field("The latest attempt; 0 before the first.")
    max_attempts = integer_field("null: as the task says.", allow_none=True)
    queue = fields.String()
    priority = fields.Integer()
    parameters = fields.Dict()
    result = fields.Raw(allow_none=True, metadata={"description": "What the job returned."})
    result_file = fields.Nested(
        ResultFileSchema, allow_none=True, metadata={"description": "Instead of a long result."}
    )
    error = fields.Nested(FailureSchema, allow_none=True)
    progress = fields.Nested(ProgressSchema, allow_none=True)
    metadata = fields.Dict(allow_none=True, metadata={"description": "What the job keeps with its execution."})
    worker = text_field("Who started the latest attempt.", allow_none=True)
    code_version = text_field("The version of the code that the worker ran.", allow_none=True)
    correlation_id = fields.String()
    overrides = fields.Dict(
        allow_none=True, metadata={"description": "What it has otherwise than the job's definition."}
    )
    batch_id = fields.String(allow_none=True)
    step = text_field("Its name in the workflow that it belongs to.", allow_none=True)
    waiting_for = integer_field("On how many executions it still waits; null: it never did.", allow_none=True)
    triggered_by = text_field("The execution whose end started it.", allow_none=True)
    schedule_id = fields.String(allow_none=True)
    scheduled_for = datetime_field("The occurrence that it stands for.", allow_none=True)
    created_at = datetime_field("When it was accepted.")
    created_by = fields.String()
    due_at = datetime_field("When it may start.")
    expires_at = datetime_field("By when its first attempt has to start.", allow_none=True)
    dispatched_at = datetime_field("Since when a message for it is in Redis.", allow_none=True)
    started_at = datetime_field("When the latest attempt started.", allow_none=True)
    finished_at = datetime_field("When it ended.", allow_none=True)
    cancel_requested_at = datetime_field("When somebody asked for it not to start, or to stop.", allow_none=True)
    cancel_requested_by = fields.String(allow_none=True)
    rerun_of = text_field("The execution that this one runs again.", allow_none=True)
    dead_letter = text_field(
        "`open`: it ended badly and somebody has to decide; `redriven` or `discarded`: somebody has.",
        allow_none=True,
        validate=ma.validate.OneOf([each.value for each in DeadLetterStatus]),
    )
    dead_letter_at = datetime_field("When somebody decided.", allow_none=True)
    dead_letter_by = text_field("Who decided.", allow_none=True)
    dead_letter_note = text_field("What they said about it.", allow_none=True)
    fingerprint = text_field("The same for failures of the same kind; of dead letters only.", allow_none=True)
    concurrency_key = text_field("Of all with this key only so many run at a time.", allow_none=True)
    rate_key = text_field("Of all with this key only so many start in a time.", allow_none=True)
    unique_key = text_field("The key that keeps others like it out.", allow_none=True)
    links = fields.Dict(values=fields.String())


class ResultSchema(ResponseSchema):
    """What came of an execution that ended."""

    id = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = fields.String(allow_none=True)
    result = fields.Raw(allow_none=True)
    result_file = fields.Nested(
        ResultFileSchema, allow_none=True, metadata={"description": "Instead of a long result."}
    )
    error = fields.Nested(FailureSchema, allow_none=True)
    finished_at = datetime_field("When it ended.", allow_none=True)


class BatchSchema(ResponseSchema):
    """What became of a batch."""

    batch_id = fields.String()
    count = fields.Integer()
    ids = fields.List(fields.String(), metadata={"description": "In the order of the request."})
    links = fields.Dict(values=fields.String())


class AttemptSchema(ResponseSchema):
    """One attempt that a worker started."""

    attempt = fields.Integer()
    state = fields.String(validate=ma.validate.OneOf([each.value for each in AttemptState]))
    reason = fields.String(allow_none=True)
    worker = fields.String(allow_none=True)
    code_version = fields.String(allow_none=True)
    started_at = datetime_field("When it started.", allow_none=True)
    finished_at = datetime_field("When it ended.", allow_none=True)
    runtime = number_field("Seconds that the job took.", allow_none=True)
    error = fields.Nested(FailureSchema, allow_none=True)


class TransitionSchema(ResponseSchema):
    """One change of state."""

    attempt = fields.Integer()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    at = datetime_field("When.")
    actor = text_field("Who: api, relay, worker:…")
    reason = text_field("Why.", allow_none=True)


class DependencySchema(ResponseSchema):
    """One execution that another one waits or waited for."""

    execution_id = fields.String()
    job = text_field("null: it is gone.", allow_none=True)
    state = fields.String(allow_none=True, metadata={"enum": [*STATES, None]})
    step = text_field("Its name in its workflow.", allow_none=True)
    on = fields.String(validate=ma.validate.OneOf([each.value for each in RequiredOutcome]))
    otherwise = fields.String(validate=ma.validate.OneOf([each.value for each in UnmetDependencyAction]))
    outcome = fields.String(
        allow_none=True,
        metadata={
            "enum": [*(each.value for each in DependencyResolution), None],
            "description": "null: it has not ended.",
        },
    )
    settled_at = datetime_field("When it ended.", allow_none=True)


class LogLineSchema(ResponseSchema):
    """One line that the job wrote."""

    seq = text_field("Sorts as text.")
    attempt = fields.Integer()
    at = datetime_field("When.")
    level = fields.String()
    logger = fields.String()
    message = fields.String()
