"""Schemas of queues, and of the blockers of executions."""

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
    """Options of pausing a queue."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE_LENGTH),
        metadata={
            "description": "Note shown with the queue and its executions.",
            "maxLength": MAX_NOTE_LENGTH,
        },
    )


class QueueSchema(ResponseSchema):
    """Queue and its backlog."""

    name = fields.String()
    created_by = text_field(
        "Actor that created the queue; null: it is shipped, or exists only while it is used.", allow_none=True
    )
    paused_at = datetime_field("Time when the queue was paused; null: it is not paused.", allow_none=True)
    paused_by = text_field("Actor that paused the queue.", allow_none=True)
    pause_note = text_field("Note on the pause.", allow_none=True)
    ready = integer_field("Number of executions that are ready to run and wait in the database.")
    oldest_due_at = datetime_field("Time when the oldest ready execution became due.", allow_none=True)
    oldest_age = number_field("Time since `oldest_due_at` (s).", allow_none=True)
    published = integer_field(
        "Number of messages that were published (in Redis or fetched by workers) and have not started."
    )
    running = integer_field("Number of running executions.")
    workers = integer_field("Number of live workers that consume the queue.")
    links = fields.Dict(values=fields.String())


class ReasonSchema(ResponseSchema):
    """Blocker of an execution."""

    code = text_field("Stable code that programs may rely on.")
    message = text_field("Human-readable text.")
    details = fields.Dict(metadata={"description": "Values that depend on `code`."})


class WhySchema(ResponseSchema):
    """Blockers of an execution."""

    id = fields.String()
    state = fields.String(validate=ma.validate.OneOf([state.value for state in ExecutionState]))
    reasons = fields.List(
        fields.Nested(ReasonSchema), metadata={"description": "All blockers; empty if the execution has ended."}
    )
    links = fields.Dict(values=fields.String())
