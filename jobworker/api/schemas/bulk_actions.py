"""What is done to many executions at once, and what came of it."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import LimitField, StrictBooleanField, StrictIntegerField
from jobworker.api.schemas.base import (
    PageQuerySchema,
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    text_field,
)
from jobworker.api.schemas.executions import FailureSchema
from jobworker.api.schemas.filters import DeadLetterFilterSchema, UnfinishedFilterSchema
from jobworker.domain.executions.dead_letter import DEAD_LETTER_STATES, DeadLetterCause
from jobworker.services.bulk.actions import MAX_EXECUTIONS, Selection
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.pagination import DEFAULT_LIMIT, MAX_LIMIT

_PATCH = {
    "description": "A JSON merge patch (RFC 7396) for the parameters: what it names is replaced, null removes.",
    "example": {"format": "json"},
}
_NOTE = {"description": "Kept with the dead letter.", "example": "the disk was full"}


class SelectionBodySchema(StrictSchema):
    """Which executions: `ids`, or a `filter`, or `all`."""

    ids = fields.List(fields.String(), load_default=None, metadata={"maxItems": MAX_EXECUTIONS})
    all = StrictBooleanField(load_default=False)
    dry_run = StrictBooleanField(load_default=False, metadata={"description": "Only say what would be done."})
    limit = StrictIntegerField(
        load_default=MAX_EXECUTIONS,
        metadata={"minimum": 1, "maximum": MAX_EXECUTIONS, "description": "At most so many."},
    )
    cursor = fields.String(
        load_default=None, allow_none=True, metadata={"description": "`next` of the request before.", "maxLength": 1000}
    )

    @ma.post_load
    def to_selection(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The selection that the use case takes, beside what else there is."""
        filter_fields = data.pop("filter", None)
        filters = ExecutionFilters(**filter_fields) if filter_fields is not None else None
        names = ("ids", "all", "dry_run", "limit", "cursor")
        return {"selection": Selection(filters=filters, **{name: data.pop(name) for name in names}), **data}


class CancelBodySchema(SelectionBodySchema):
    """Which executions to cancel."""

    filter = fields.Nested(UnfinishedFilterSchema)


class DiscardBodySchema(SelectionBodySchema):
    """Which dead letters to leave at that."""

    filter = fields.Nested(DeadLetterFilterSchema)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class RedriveBodySchema(DiscardBodySchema):
    """Which dead letters to run again, and how."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    rate = fields.Float(
        load_default=None,
        allow_none=True,
        metadata={"description": "At most so many become due each second.", "example": 10},
    )


class RerunBodySchema(StrictSchema):
    """How to run an execution again."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class NoteBodySchema(StrictSchema):
    """Why a dead letter is left at that."""

    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class DeadLetterQuerySchema(DeadLetterFilterSchema, PageQuerySchema):
    """Which dead letters to list."""


class SampledSchema(ResponseSchema):
    """An execution that an action concerned."""

    id = fields.String()
    rerun = text_field("The execution that runs it again, if that was asked for.", allow_none=True)


class RefusedSchema(ResponseSchema):
    """An execution that was left as it is."""

    id = fields.String()
    pointer = fields.String()
    code = fields.String()
    message = fields.String()


class DoneSchema(ResponseSchema):
    """What came of an action on many executions, or would in a dry run."""

    dry_run = fields.Boolean()
    matched = integer_field("The executions that are meant, of this request and those after it.")
    states = fields.Dict(
        keys=fields.String(), values=fields.Integer(), metadata={"description": "The same, by their states."}
    )
    done = integer_field("To so many it was done.")
    refused = integer_field("So many were left as they are; `problems` says why, of the first 100 places.")
    left = integer_field("So many remain for requests after this one.")
    next = text_field("To be passed on as `cursor`; null: nothing remains.", allow_none=True)
    until = datetime_field("When the last rerun is due, if there is a rate.", allow_none=True)
    sample = fields.List(fields.Nested(SampledSchema), metadata={"description": "The first of them."})
    problems = fields.List(fields.Nested(RefusedSchema))


class DeadLetterSchema(ResponseSchema):
    """An execution that ended badly and waits for somebody's decision."""

    id = fields.String()
    job = fields.String()
    job_revision = fields.Integer()
    task = fields.String()
    queue = fields.String()
    state = fields.String(validate=ma.validate.OneOf(sorted(state.value for state in DEAD_LETTER_STATES)))
    cause = fields.String(validate=ma.validate.OneOf([each.value for each in DeadLetterCause]))
    reason = fields.String(allow_none=True)
    error = fields.Nested(FailureSchema, allow_none=True)
    fingerprint = fields.String(allow_none=True)
    attempt = integer_field("The last attempt that was started.")
    max_attempts = integer_field("null: as the task says.", allow_none=True)
    parameters = fields.Dict()
    worker = fields.String(allow_none=True)
    code_version = fields.String(allow_none=True)
    correlation_id = fields.String()
    batch_id = fields.String(allow_none=True)
    rerun_of = fields.String(allow_none=True)
    created_at = datetime_field("When it was accepted.")
    finished_at = datetime_field("When it ended.")
    links = fields.Dict(values=fields.String())


class GroupSchema(ResponseSchema):
    """Dead letters with the same failure."""

    fingerprint = fields.String(allow_none=True)
    count = fields.Integer()
    first_seen = datetime_field("When the first of them ended.")
    last_seen = datetime_field("When the last of them ended.")
    example = fields.Nested(DeadLetterSchema)
    links = fields.Dict(values=fields.String())


class GroupsSchema(ResponseSchema):
    """The largest groups, the largest first."""

    items = fields.List(fields.Nested(GroupSchema))


class GroupsQuerySchema(StrictSchema):
    """How many groups to list."""

    limit = LimitField(DEFAULT_LIMIT, MAX_LIMIT)
