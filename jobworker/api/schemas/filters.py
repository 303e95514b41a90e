"""Which executions are meant: in the query of a list, and in the body of what is done to many."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Coded, Moment
from jobworker.api.schemas.base import Schema
from jobworker.domain import admission
from jobworker.domain.dead_letter import DEAD
from jobworker.domain.execution import FINAL, State
from jobworker.domain.ids import is_id

_TIME = {"type": "string", "format": "date-time"}


def check_id(value: str) -> None:
    """An id that cannot exist is a mistake, not an empty list."""
    if not is_id(value):
        raise ma.ValidationError(Coded("not_allowed", "must be an id as a submission returned it"))


def check_text(value: str) -> None:
    """No name of ours has other characters."""
    if not 0 < len(value) <= admission.MAX_CORRELATION_ID or not value.isprintable():
        raise ma.ValidationError(Coded("not_allowed", "must have 1 to 128 printable characters"))


class ExecutionFilter(Schema):
    """What executions may be told apart by; what is left out does not matter."""

    job = fields.String(validate=check_text)
    state = fields.String(validate=ma.validate.OneOf([state.value for state in State]))
    queue = fields.String(validate=check_text)
    correlation_id = fields.String(validate=check_text)
    batch_id = fields.String(validate=check_id)
    created_after = Moment(metadata=_TIME)
    created_before = Moment(metadata=_TIME)


class UnfinishedFilter(ExecutionFilter):
    """Which executions that have not ended."""

    state = fields.String(validate=ma.validate.OneOf([state.value for state in State if state not in FINAL]))


class DeadLetterFilter(ExecutionFilter):
    """Which dead letters."""

    state = fields.String(validate=ma.validate.OneOf(sorted(state.value for state in DEAD)))
    fingerprint = fields.String(validate=check_text)
    error_type = fields.String(
        validate=check_text, metadata={"description": "The name of the exception.", "example": "ConnectionError"}
    )
    ended_after = Moment(metadata=_TIME)
    ended_before = Moment(metadata=_TIME)
