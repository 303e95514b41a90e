"""Queues, and why executions wait in them."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.schemas.base import Answer, Schema, integer, moment, number, text
from jobworker.domain.execution import State
from jobworker.services.queues import MAX_NOTE


class PauseBody(Schema):
    """Why a queue is paused."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE),
        metadata={
            "description": "Shown with the queue and its executions.",
            "maxLength": MAX_NOTE,
        },
    )


class Queue(Answer):
    """A queue."""

    name = fields.String()
    created_by = text("Who created it; null: it is shipped, or exists while something uses it.", allow_none=True)
    paused_at = moment("Since when nothing more starts; null: it is not paused.", allow_none=True)
    paused_by = text("Who paused it.", allow_none=True)
    pause_note = text("Why.", allow_none=True)
    ready = integer("How many executions may run and wait in the database.")
    oldest_due_at = moment("Since when the oldest of these is due.", allow_none=True)
    oldest_age = number("That time ago (s).", allow_none=True)
    published = integer("How many messages are with the workers (in Redis, or fetched) and have not started.")
    running = integer("How many executions run.")
    workers = integer("How many live workers consume it.")
    links = fields.Dict(values=fields.String())


class Reason(Answer):
    """One thing that an execution waits for."""

    code = text("Stable; programs may rely on it.")
    message = text("For people.")
    details = fields.Dict(metadata={"description": "Figures; which ones, the code says."})


class Why(Answer):
    """Why an execution has not run, or has not finished."""

    id = fields.String()
    state = fields.String(validate=ma.validate.OneOf([state.value for state in State]))
    reasons = fields.List(fields.Nested(Reason), metadata={"description": "All of them; empty: it has ended."})
    links = fields.Dict(values=fields.String())
