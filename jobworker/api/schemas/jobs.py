"""Schemas of jobs and tasks."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import DurationField, StrictBooleanField, StrictIntegerField
from jobworker.api.schemas.base import ResponseSchema, StrictSchema, datetime_field, integer_field, text_field
from jobworker.api.schemas.policies import POLICY_METADATA, policy_field
from jobworker.domain.executions.execution import DEFAULT_PRIORITY, PRIORITIES
from jobworker.domain.jobs import definition, definition_validation

_DURATION = {"type": ["number", "string"], "example": 600}
_PRIORITY = {
    "minimum": PRIORITIES.start,
    "maximum": PRIORITIES.stop - 1,
    "description": "Priority; 9 is the most urgent.",
}
_NAME = {"pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$", "example": "nightly-export"}
_QUEUE = {"pattern": r"^[a-z0-9][a-z0-9_.-]{0,63}$", "example": definition.DEFAULT_QUEUE}
_SCHEDULE = {
    "description": 'Schedule: an interval {"kind": "interval", "every": seconds, "anchor"?} or a cron rule '
    '{"kind": "cron", "expression": "0 3 * * *", "zone"?: "Europe/Berlin"}.',
    "example": {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"},
}


class DefinitionBodySchema(StrictSchema):
    """Job definition in a request; omitted fields have their defaults."""

    name = fields.String(required=True, metadata=_NAME)
    task = fields.String(required=True, metadata={"example": "tasks.exports.process_data_export"})
    description = fields.String(load_default="", metadata={"maxLength": definition_validation.MAX_DESCRIPTION_LENGTH})
    enabled = StrictBooleanField(load_default=True)
    queue = fields.String(load_default=definition.DEFAULT_QUEUE, metadata=_QUEUE)
    priority = StrictIntegerField(load_default=DEFAULT_PRIORITY, metadata=_PRIORITY)
    defaults = fields.Dict(load_default=dict, metadata={"description": "Default parameters of executions."})
    time_limit = DurationField(load_default=None, allow_none=True, metadata=_DURATION)
    soft_time_limit = DurationField(load_default=None, allow_none=True, metadata=_DURATION)
    expires = DurationField(
        load_default=None,
        allow_none=True,
        metadata={
            **_DURATION,
            "description": "Time after it is due within which an execution must start; otherwise it expires.",
        },
    )
    on_worker_lost = fields.String(
        load_default=definition.OnWorkerLost.RETRY.value,
        validate=ma.validate.OneOf([reaction.value for reaction in definition.OnWorkerLost]),
    )
    schedule = fields.Dict(load_default=None, allow_none=True, metadata=_SCHEDULE)
    tags = fields.List(fields.String(), load_default=list, metadata={"maxItems": definition_validation.MAX_TAGS})
    retry = policy_field("retry")
    trigger_after = policy_field("trigger_after")
    isolation = policy_field("isolation")
    circuit = policy_field("circuit")
    concurrency = policy_field("concurrency")
    rate_limit = policy_field("rate_limit")
    unique = policy_field("unique")

    @ma.post_load
    def to_definition(self, data: dict[str, Any], **_: Any) -> definition.JobDefinition:
        """Convert the body to a job definition; the use case validates it."""
        return definition.JobDefinition.from_json(data)


class ReplacementBodySchema(DefinitionBodySchema):
    """Replacement of the job definition named in the URL; `name` may be omitted, but must not differ."""

    name = fields.String(
        load_default="",
        metadata={"description": "Optional; must be the name in the URL because a job cannot be renamed."},
    )


class ParameterSchema(ResponseSchema):
    """Parameter of a task."""

    name = fields.String(metadata={"description": "Name of the parameter; `**` means any other name."})
    type = fields.String(
        validate=ma.validate.OneOf(["string", "integer", "number", "boolean", "array", "object", "any"])
    )
    required = fields.Boolean()
    default = fields.Raw(allow_none=True)
    choices = fields.List(fields.Raw(), allow_none=True)
    nullable = fields.Boolean()


class TaskSchema(ResponseSchema):
    """Task that workers have announced."""

    name = fields.String()
    description = fields.String()
    parameters = fields.List(fields.Nested(ParameterSchema))
    options = fields.Dict(metadata={"description": "Celery options of the task."})
    code_version = fields.String()
    updated_at = datetime_field("Time when a worker last announced a change.")


class JobSchema(ResponseSchema):
    """Job definition."""

    name = fields.String()
    task = fields.String()
    description = fields.String()
    enabled = fields.Boolean()
    queue = fields.String()
    priority = fields.Integer()
    parameters = fields.List(
        fields.Nested(ParameterSchema), metadata={"description": "Parameters that the task accepts."}
    )
    defaults = fields.Dict()
    retry = fields.Dict(metadata=POLICY_METADATA["retry"])
    concurrency = fields.Dict(allow_none=True, metadata=POLICY_METADATA["concurrency"])
    rate_limit = fields.Dict(allow_none=True, metadata=POLICY_METADATA["rate_limit"])
    unique = fields.Dict(allow_none=True, metadata=POLICY_METADATA["unique"])
    trigger_after = fields.List(fields.Dict(), metadata=POLICY_METADATA["trigger_after"])
    isolation = fields.Dict(metadata=POLICY_METADATA["isolation"])
    circuit = fields.Dict(allow_none=True, metadata=POLICY_METADATA["circuit"])
    time_limit = fields.Float(allow_none=True)
    soft_time_limit = fields.Float(allow_none=True)
    expires = fields.Float(allow_none=True)
    on_worker_lost = fields.String(validate=ma.validate.OneOf([reaction.value for reaction in definition.OnWorkerLost]))
    schedule = fields.Dict(allow_none=True)
    tags = fields.List(fields.String())
    owner = text_field(
        "Owner; a job owned by `code` is changed there, not over the API.",
        validate=ma.validate.OneOf([owner.value for owner in definition.JobOwner]),
    )
    revision = integer_field("Number of the current revision, used as the ETag.")
    created_at = datetime_field("Time when the job was first defined.")
    updated_at = datetime_field("Time when the definition was last changed.")
    links = fields.Dict(values=fields.String())
