"""Filters of executions, for the queries of lists and the bodies of bulk actions."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, DateTimeField
from jobworker.api.schemas.base import StrictSchema
from jobworker.domain.executions.dead_letter import DEAD_LETTER_STATES
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.ids import is_id
from jobworker.domain.submissions.submission import MAX_CORRELATION_ID_LENGTH

_TIME = {"type": "string", "format": "date-time"}


def check_id(value: str) -> None:
    """Raise an error for an id that cannot exist, instead of returning an empty list."""
    if not is_id(value):
        raise ma.ValidationError(CodedMessage("not_allowed", "must be an id as a submission returned it"))


def check_text(value: str) -> None:
    """Raise an error for a text that no name can be equal to."""
    if not 0 < len(value) <= MAX_CORRELATION_ID_LENGTH or not value.isprintable():
        raise ma.ValidationError(CodedMessage("not_allowed", "must have 1 to 128 printable characters"))


class ExecutionFilterSchema(StrictSchema):
    """Filter of executions; omitted fields match all."""

    job = fields.String(validate=check_text)
    state = fields.String(validate=ma.validate.OneOf([state.value for state in ExecutionState]))
    queue = fields.String(validate=check_text)
    correlation_id = fields.String(validate=check_text)
    batch_id = fields.String(validate=check_id)
    created_after = DateTimeField(metadata=_TIME)
    created_before = DateTimeField(metadata=_TIME)


class UnfinishedFilterSchema(ExecutionFilterSchema):
    """Filter of executions that have not ended."""

    state = fields.String(
        validate=ma.validate.OneOf([state.value for state in ExecutionState if state not in FINAL_STATES])
    )


class DeadLetterFilterSchema(ExecutionFilterSchema):
    """Filter of dead letters."""

    state = fields.String(validate=ma.validate.OneOf(sorted(state.value for state in DEAD_LETTER_STATES)))
    fingerprint = fields.String(validate=check_text)
    error_type = fields.String(
        validate=check_text, metadata={"description": "Name of the exception.", "example": "ConnectionError"}
    )
    ended_after = DateTimeField(metadata=_TIME)
    ended_before = DateTimeField(metadata=_TIME)
