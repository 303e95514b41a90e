"""Schemas of previews of retry policies."""

from marshmallow import fields

from jobworker.api.fields import DateTimeField, StrictIntegerField
from jobworker.api.schemas.base import ResponseSchema, StrictSchema, datetime_field, number_field
from jobworker.api.schemas.policies import policy_field
from jobworker.domain.jobs.retry import MAX_ATTEMPTS

_START = {"type": "string", "format": "date-time", "description": "Time when attempt 1 fails; null: now."}
_ATTEMPTS = {
    "minimum": 1,
    "maximum": MAX_ATTEMPTS,
    "description": "Maximum number of attempts to list; null: all, or 10 if the policy has no maximum.",
}


class PreviewBodySchema(StrictSchema):
    """Retry policy to preview, with options."""

    retry = policy_field("retry", required=True)
    start = DateTimeField(load_default=None, allow_none=True, data_key="from", metadata=_START)
    attempts = StrictIntegerField(load_default=None, allow_none=True, metadata=_ATTEMPTS)


class SpanSchema(ResponseSchema):
    """Range of a random duration."""

    shortest = number_field("Shortest duration (s).")
    longest = number_field("Longest duration (s).")


class WindowSchema(ResponseSchema):
    """Range of a random time."""

    earliest = datetime_field("Earliest time.")
    latest = datetime_field("Latest time.")


class PlannedAttemptSchema(ResponseSchema):
    """Planned attempt."""

    attempt = fields.Integer()
    wait = fields.Nested(SpanSchema, metadata={"description": "Wait after the previous attempt."})
    due = fields.Nested(WindowSchema)


class PreviewSchema(ResponseSchema):
    """Planned attempts of a retry policy."""

    attempts = fields.List(fields.Nested(PlannedAttemptSchema))
    total = fields.Nested(SpanSchema, metadata={"description": "Time from the first attempt to the last."})
