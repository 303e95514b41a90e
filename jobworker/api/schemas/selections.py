"""What is done to many executions at once, and what came of it."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Count, Flag, Limit
from jobworker.api.schemas.base import Answer, PageQuery, Schema, integer, moment, text
from jobworker.api.schemas.executions import Failure
from jobworker.api.schemas.filters import DeadLetterFilter, UnfinishedFilter
from jobworker.domain.dead_letter import DEAD, Cause
from jobworker.services.selection import MOST, Selection
from jobworker.store.filters import Filters
from jobworker.store.pages import DEFAULT_LIMIT, MAX_LIMIT

_PATCH = {
    "description": "A JSON merge patch (RFC 7396) for the parameters: what it names is replaced, null removes.",
    "example": {"format": "json"},
}
_NOTE = {"description": "Kept with the dead letter.", "example": "the disk was full"}


class SelectionBody(Schema):
    """Which executions: `ids`, or a `filter`, or `all`."""

    ids = fields.List(fields.String(), load_default=None, metadata={"maxItems": MOST})
    all = Flag(load_default=False)
    dry_run = Flag(load_default=False, metadata={"description": "Only say what would be done."})
    limit = Count(load_default=MOST, metadata={"minimum": 1, "maximum": MOST, "description": "At most so many."})
    cursor = fields.String(
        load_default=None, allow_none=True, metadata={"description": "`next` of the request before.", "maxLength": 1000}
    )

    @ma.post_load
    def to_selection(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The selection that the use case takes, beside what else there is."""
        found = data.pop("filter", None)
        filters = Filters(**found) if found is not None else None
        names = ("ids", "all", "dry_run", "limit", "cursor")
        return {"selection": Selection(filters=filters, **{name: data.pop(name) for name in names}), **data}


class CancelBody(SelectionBody):
    """Which executions to cancel."""

    filter = fields.Nested(UnfinishedFilter)


class DiscardBody(SelectionBody):
    """Which dead letters to leave at that."""

    filter = fields.Nested(DeadLetterFilter)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class RedriveBody(DiscardBody):
    """Which dead letters to run again, and how."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    rate = fields.Float(
        load_default=None,
        allow_none=True,
        metadata={"description": "At most so many become due each second.", "example": 10},
    )


class RerunBody(Schema):
    """How to run an execution again."""

    patch = fields.Dict(load_default=dict, metadata=_PATCH)
    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class NoteBody(Schema):
    """Why a dead letter is left at that."""

    note = fields.String(load_default=None, allow_none=True, metadata=_NOTE)


class DeadLetterQuery(DeadLetterFilter, PageQuery):
    """Which dead letters to list."""


class Sampled(Answer):
    """An execution that an action concerned."""

    id = fields.String()
    rerun = text("The execution that runs it again, if that was asked for.", allow_none=True)


class Refused(Answer):
    """An execution that was left as it is."""

    id = fields.String()
    pointer = fields.String()
    code = fields.String()
    message = fields.String()


class Done(Answer):
    """What came of an action on many executions, or would in a dry run."""

    dry_run = fields.Boolean()
    matched = integer("The executions that are meant, of this request and those after it.")
    states = fields.Dict(
        keys=fields.String(), values=fields.Integer(), metadata={"description": "The same, by their states."}
    )
    done = integer("To so many it was done.")
    refused = integer("So many were left as they are; `problems` says why, of the first 100 places.")
    left = integer("So many remain for requests after this one.")
    next = text("To be passed on as `cursor`; null: nothing remains.", allow_none=True)
    until = moment("When the last rerun is due, if there is a rate.", allow_none=True)
    sample = fields.List(fields.Nested(Sampled), metadata={"description": "The first of them."})
    problems = fields.List(fields.Nested(Refused))


class DeadLetter(Answer):
    """An execution that ended badly and waits for somebody's decision."""

    id = fields.String()
    job = fields.String()
    job_revision = fields.Integer()
    task = fields.String()
    queue = fields.String()
    state = fields.String(validate=ma.validate.OneOf(sorted(state.value for state in DEAD)))
    cause = fields.String(validate=ma.validate.OneOf([each.value for each in Cause]))
    reason = fields.String(allow_none=True)
    error = fields.Nested(Failure, allow_none=True)
    fingerprint = fields.String(allow_none=True)
    attempt = integer("The last attempt that was started.")
    max_attempts = integer("null: as the task says.", allow_none=True)
    parameters = fields.Dict()
    worker = fields.String(allow_none=True)
    code_version = fields.String(allow_none=True)
    correlation_id = fields.String()
    batch_id = fields.String(allow_none=True)
    rerun_of = fields.String(allow_none=True)
    created_at = moment("When it was accepted.")
    finished_at = moment("When it ended.")
    links = fields.Dict(values=fields.String())


class Group(Answer):
    """Dead letters with the same failure."""

    fingerprint = fields.String(allow_none=True)
    count = fields.Integer()
    first_seen = moment("When the first of them ended.")
    last_seen = moment("When the last of them ended.")
    example = fields.Nested(DeadLetter)
    links = fields.Dict(values=fields.String())


class Groups(Answer):
    """The largest groups, the largest first."""

    items = fields.List(fields.Nested(Group))


class GroupsQuery(Schema):
    """How many groups to list."""

    limit = Limit(DEFAULT_LIMIT, MAX_LIMIT)
