"""Previews of retry policies."""

from marshmallow import fields

from jobworker.api.fields import DateTimeField, StrictIntegerField
from jobworker.api.schemas.base import ResponseSchema, StrictSchema, datetime_field, number_field
from jobworker.api.schemas.policies import policy_field
from jobworker.domain.jobs.retry import MAX_ATTEMPTS

_START = {"type": "string", "format": "date-time", "description": "When attempt 1 fails; null: now."}
_ATTEMPTS = {
    "minimum": 1,
    "maximum": MAX_ATTEMPTS,
    "description": "How many to show at most; null: all that there may be, or 10 if there is no end.",
}


class PreviewBodySchema(StrictSchema):
    """The policy to look at."""

    retry = policy_field("retry", required=True)
    start = DateTimeField(load_default=None, allow_none=True, data_key="from", metadata=_START)
    attempts = StrictIntegerField(load_default=None, allow_none=True, metadata=_ATTEMPTS)


class SpanSchema(ResponseSchema):
    """What chance leaves open."""

    shortest = number_field("Seconds.")
    longest = number_field("Seconds.")


class WindowSchema(ResponseSchema):
    """When something may be."""

    earliest = datetime_field("At the earliest.")
    latest = datetime_field("At the latest.")


class PlannedAttemptSchema(ResponseSchema):
    """One attempt of the plan."""

    attempt = fields.Integer()
    wait = fields.Nested(SpanSchema, metadata={"description": "After the attempt before it."})
    due = fields.Nested(WindowSchema)


class PreviewSchema(ResponseSchema):
    """When each attempt would be."""

    attempts = fields.List(fields.Nested(PlannedAttemptSchema))
    total = fields.Nested(SpanSchema, metadata={"description": "From the first attempt to the last."})
