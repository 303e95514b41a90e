"""Schemas of bulk actions on executions, and of dead letters."""

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
    "description": "JSON merge patch (RFC 7396) for the parameters: replaces the named ones; null removes one.",
    "example": {"format": "json"},
}
_NOTE = {"description": "Note stored with the dead letter.", "example": "the disk was full"}


class SelectionBodySchema(StrictSchema):
    """Selection of executions by `ids`, `filter` or `all`."""

    ids = fields.List(fields.String(), load_default=None, metadata={"maxItems": MAX_EXECUTIONS})
    all = StrictBooleanField(load_default=False)
    dry_run = StrictBooleanField(
        load_default=False, metadata={"description": "Whether to return the result without changing anything."}
    )
    limit = StrictIntegerField(
        load_default=MAX_EXECUTIONS,
        metadata={"minimum": 1, "maximum": MAX_EXECUTIONS, "description": "Maximum number of executions."},
    )
    cursor = fields.String(
        load_default=None,
        allow_none=True,
        metadata={"description": "`next` of the previous response.", "maxLength": 1000},
    )

    @ma.post_load
    def to_selection(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Combine the fields of the selection into a `Selection`, beside the other fields."""
        filter_fields = data.pop("filter", None)
        filters = ExecutionFilters(**filter_fields) if filter_fields is not None else None
        names = ("ids", "all", "dry_run", "limit", "cursor")
        return {"selection": Selection(filters=filters, **{name: data.pop(name) for name in names}), **data}


class CancelBodySchema(SelectionBodySchema):
    """Selection of executions to cancel."""

    filter = fields.Nested(UnfinishedFilterSchema)


class DiscardBodySchema(SelectionBodySchema):
    """Selection of dead letters to discard."""

    filter = fields.Nested(DeadLetterFilterSchema)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class RedriveBodySchema(DiscardBodySchema):
    """Selection of dead letters to redrive, with options."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    rate = fields.Float(
        load_default=None,
        allow_none=True,
        metadata={"description": "Maximum number of reruns that become due per second.", "example": 10},
    )


class RerunBodySchema(StrictSchema):
    """Options of a rerun."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class NoteBodySchema(StrictSchema):
    """Reason for discarding a dead letter."""

    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class DeadLetterQuerySchema(DeadLetterFilterSchema, PageQuerySchema):
    """Query parameters of the list of dead letters."""


class SampledSchema(ResponseSchema):
    """Execution that a bulk action selected."""

    id = fields.String()
    rerun = text_field("Execution that reruns this one, if the action is a redrive.", allow_none=True)


class RefusedSchema(ResponseSchema):
    """Execution that a bulk action did not change."""

    id = fields.String()
    pointer = fields.String()
    code = fields.String()
    message = fields.String()


class DoneSchema(ResponseSchema):
    """Result of a bulk action, or of its dry run."""

    dry_run = fields.Boolean()
    matched = integer_field("Number of selected executions, for this request and subsequent ones.")
    states = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata={"description": "Number of selected executions by state."},
    )
    done = integer_field("Number of executions that the action was applied to.")
    refused = integer_field("Number of executions that were not changed; `problems` lists the first 100 reasons.")
    left = integer_field("Number of executions that remain for subsequent requests.")
    next = text_field("Value for `cursor` in the next request; null if no executions remain.", allow_none=True)
    until = datetime_field("Time when the last rerun is due, if `rate` is set.", allow_none=True)
    sample = fields.List(
        fields.Nested(SampledSchema), metadata={"description": "First executions that the action was applied to."}
    )
    problems = fields.List(fields.Nested(RefusedSchema))


class DeadLetterSchema(ResponseSchema):
    """Execution that failed for good and awaits a decision."""

    id = fields.String()
    job = fields.String()
    job_revision = fields.Integer()
    task = fields.String()
    queue = fields.String()
    state = fields.String(validate=ma.validate.OneOf(sorted(state.value for state in DEAD_LETTER_STATES)))
    cause = fields.String(validate=ma.validate.OneOf([cause.value for cause in DeadLetterCause]))
    reason = fields.String(allow_none=True)
    error = fields.Nested(FailureSchema, allow_none=True)
    fingerprint = fields.String(allow_none=True)
    attempt = integer_field("Number of the last attempt that was started.")
    max_attempts = integer_field("Maximum number of attempts; null: set by the task.", allow_none=True)
    parameters = fields.Dict()
    worker = fields.String(allow_none=True)
    code_version = fields.String(allow_none=True)
    correlation_id = fields.String()
    batch_id = fields.String(allow_none=True)
    rerun_of = fields.String(allow_none=True)
    created_at = datetime_field("Time when the execution was accepted.")
    finished_at = datetime_field("Time when the execution ended.")
    links = fields.Dict(values=fields.String())


class GroupSchema(ResponseSchema):
    """Group of dead letters with one fingerprint."""

    fingerprint = fields.String(allow_none=True)
    count = fields.Integer()
    first_seen = datetime_field("Time when the first execution of the group ended.")
    last_seen = datetime_field("Time when the last execution of the group ended.")
    example = fields.Nested(DeadLetterSchema)
    links = fields.Dict(values=fields.String())


class GroupsSchema(ResponseSchema):
    """Groups of dead letters, largest first."""

    items = fields.List(fields.Nested(GroupSchema))


class GroupsQuerySchema(StrictSchema):
    """Query parameters of the list of groups."""

    limit = LimitField(DEFAULT_LIMIT, MAX_LIMIT)
