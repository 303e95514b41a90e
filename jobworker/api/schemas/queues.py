"""Queues, and why executions wait in them."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.schemas.base import (
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    number_field,
    text_field,
)
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.queues import MAX_NOTE_LENGTH


class PauseBodySchema(StrictSchema):
    """Why a queue is paused."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE_LENGTH),
        metadata={
            "description": "Shown with the queue and its executions.",
            "maxLength": MAX_NOTE_LENGTH,
        },
    )


class QueueSchema(ResponseSchema):
    """A queue."""

    name = fields.String()
    created_by = text_field("Who created it; null: it is shipped, or exists while something uses it.", allow_none=True)
    paused_at = datetime_field("Since when nothing more starts; null: it is not paused.", allow_none=True)
    paused_by = text_field("Who paused it.", allow_none=True)
    pause_note = text_field("Why.", allow_none=True)
    ready = integer_field("How many executions may run and wait in the database.")
    oldest_due_at = datetime_field("Since when the oldest of these is due.", allow_none=True)
    oldest_age = number_field("That time ago (s).", allow_none=True)
    published = integer_field("How many messages are with the workers (in Redis, or fetched) and have not started.")
    running = integer_field("How many executions run.")
    workers = integer_field("How many live workers consume it.")
    links = fields.Dict(values=fields.String())


class ReasonSchema(ResponseSchema):
    """One thing that an execution waits for."""

    code = text_field("Stable; programs may rely on it.")
    message = text_field("For people.")
    details = fields.Dict(metadata={"description": "Figures; which ones, the code says."})


class WhySchema(ResponseSchema):
    """Why an execution has not run, or has not finished."""

    id = fields.String()
    state = fields.String(validate=ma.validate.OneOf([state.value for state in ExecutionState]))
    reasons = fields.List(fields.Nested(ReasonSchema), metadata={"description": "All of them; empty: it has ended."})
    links = fields.Dict(values=fields.String())
