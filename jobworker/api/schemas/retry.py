"""Previews of retry policies."""

from marshmallow import fields

from jobworker.api.fields import Count, Moment
from jobworker.api.schemas.base import Answer, Schema, moment, number
from jobworker.api.schemas.policies import policy
from jobworker.domain.retry import MAX_ATTEMPTS

_FROM = {"type": "string", "format": "date-time", "description": "When attempt 1 fails; null: now."}
_ATTEMPTS = {
    "minimum": 1,
    "maximum": MAX_ATTEMPTS,
    "description": "How many to show at most; null: all that there may be, or 10 if there is no end.",
}


class PreviewBody(Schema):
    """The policy to look at."""

    retry = policy("retry", required=True)
    start = Moment(load_default=None, allow_none=True, data_key="from", metadata=_FROM)
    attempts = Count(load_default=None, allow_none=True, metadata=_ATTEMPTS)


class Span(Answer):
    """What chance leaves open."""

    shortest = number("Seconds.")
    longest = number("Seconds.")


class Window(Answer):
    """When something may be."""

    earliest = moment("At the earliest.")
    latest = moment("At the latest.")


class PlannedAttempt(Answer):
    """One attempt of the plan."""

    attempt = fields.Integer()
    wait = fields.Nested(Span, metadata={"description": "After the attempt before it."})
    due = fields.Nested(Window)


class Preview(Answer):
    """When each attempt would be."""

    attempts = fields.List(fields.Nested(PlannedAttempt))
    total = fields.Nested(Span, metadata={"description": "From the first attempt to the last."})
