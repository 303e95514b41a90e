"""Jobs and tasks."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Count, Duration, Flag
from jobworker.api.schemas.base import Answer, Schema, integer, moment, text
from jobworker.api.schemas.policies import POLICIES, policy
from jobworker.domain import admission, job
from jobworker.domain.execution import DEFAULT_PRIORITY, PRIORITIES

_DURATION = {"type": ["number", "string"], "example": 600}
_PRIORITY = {"minimum": PRIORITIES.start, "maximum": PRIORITIES.stop - 1, "description": "9 is the most urgent."}
_NAME = {"pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$", "example": "nightly-export"}
_QUEUE = {"pattern": r"^[a-z0-9][a-z0-9_.-]{0,63}$", "example": job.DEFAULT_QUEUE}
_SCHEDULE = {
    "description": 'An interval {"kind": "interval", "every": seconds, "anchor"?} or a cron expression '
    '{"kind": "cron", "expression": "0 3 * * *", "zone"?: "Europe/Berlin"}.',
    "example": {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"},
}


class DefinitionBody(Schema):
    """A job definition as somebody writes it; what is left out has its default."""

    name = fields.String(required=True, metadata=_NAME)
    task = fields.String(required=True, metadata={"example": "tasks.exports.process_data_export"})
    description = fields.String(load_default="", metadata={"maxLength": admission.MAX_DESCRIPTION})
    enabled = Flag(load_default=True)
    queue = fields.String(load_default=job.DEFAULT_QUEUE, metadata=_QUEUE)
    priority = Count(load_default=DEFAULT_PRIORITY, metadata=_PRIORITY)
    defaults = fields.Dict(
        load_default=dict, metadata={"description": "Parameters for executions that do not give them."}
    )
    time_limit = Duration(load_default=None, allow_none=True, metadata=_DURATION)
    soft_time_limit = Duration(load_default=None, allow_none=True, metadata=_DURATION)
    expires = Duration(
        load_default=None, allow_none=True, metadata={**_DURATION, "description": "It starts within so long, or not."}
    )
    on_worker_lost = fields.String(
        load_default=job.OnWorkerLost.RETRY.value, validate=ma.validate.OneOf([each.value for each in job.OnWorkerLost])
    )
    schedule = fields.Dict(load_default=None, allow_none=True, metadata=_SCHEDULE)
    tags = fields.List(fields.String(), load_default=list, metadata={"maxItems": admission.MAX_TAGS})
    retry = policy("retry")
    trigger_after = policy("trigger_after")
    isolation = policy("isolation")
    circuit = policy("circuit")
    concurrency = policy("concurrency")
    rate_limit = policy("rate_limit")
    unique = policy("unique")

    @ma.post_load
    def to_definition(self, data: dict[str, Any], **_: Any) -> job.Definition:
        """The definition that the body describes; its meaning is checked by the use case."""
        return job.Definition.from_json(data)


class ReplacementBody(DefinitionBody):
    """A job definition that replaces the one named in the URL; `name` may be left out, not differ."""

    name = fields.String(load_default="", metadata={"description": "May be left out: a job cannot be renamed."})


class Parameter(Answer):
    """One parameter of a task."""

    name = fields.String(metadata={"description": "`**` stands for any other name."})
    type = fields.String(
        validate=ma.validate.OneOf(["string", "integer", "number", "boolean", "array", "object", "any"])
    )
    required = fields.Boolean()
    default = fields.Raw(allow_none=True)
    choices = fields.List(fields.Raw(), allow_none=True)
    nullable = fields.Boolean()


class Task(Answer):
    """What workers can run, as they announced it."""

    name = fields.String()
    description = fields.String()
    parameters = fields.List(fields.Nested(Parameter))
    options = fields.Dict(metadata={"description": "Celery's options of the task."})
    code_version = fields.String()
    updated_at = moment("When a worker last announced a change.")


class Job(Answer):
    """A job definition."""

    name = fields.String()
    task = fields.String()
    description = fields.String()
    enabled = fields.Boolean()
    queue = fields.String()
    priority = fields.Integer()
    parameters = fields.List(fields.Nested(Parameter), metadata={"description": "What the task accepts."})
    defaults = fields.Dict()
    retry = fields.Dict(metadata=POLICIES["retry"])
    concurrency = fields.Dict(allow_none=True, metadata=POLICIES["concurrency"])
    rate_limit = fields.Dict(allow_none=True, metadata=POLICIES["rate_limit"])
    unique = fields.Dict(allow_none=True, metadata=POLICIES["unique"])
    trigger_after = fields.List(fields.Dict(), metadata=POLICIES["trigger_after"])
    isolation = fields.Dict(metadata=POLICIES["isolation"])
    circuit = fields.Dict(allow_none=True, metadata=POLICIES["circuit"])
    time_limit = fields.Float(allow_none=True)
    soft_time_limit = fields.Float(allow_none=True)
    expires = fields.Float(allow_none=True)
    on_worker_lost = fields.String(validate=ma.validate.OneOf([each.value for each in job.OnWorkerLost]))
    schedule = fields.Dict(allow_none=True)
    tags = fields.List(fields.String())
    owner = text(
        "`code`: changed there, not over the API.", validate=ma.validate.OneOf([each.value for each in job.Owner])
    )
    revision = integer("Counts the changes; the ETag is made from it.")
    created_at = moment("When it was first defined.")
    updated_at = moment("When it was last changed.")
    links = fields.Dict(values=fields.String())
