"""Schemas of revisions, and of differences between executions."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.schemas.base import ResponseSchema, datetime_field, integer_field, text_field


class RevisionBaseSchema(ResponseSchema):
    """Base schema of revisions."""

    revision = integer_field("Number of the revision, from 1.")
    created_at = datetime_field("Time when the revision was created.")
    actor = text_field("Actor that created the revision; `code…` is code with a declaration.")
    changed = fields.List(
        fields.String(),
        allow_none=True,
        metadata={
            "description": "JSON pointers to the differences from the previous revision; null: this is the first."
        },
    )
    definition = fields.Dict()
    links = fields.Dict(values=fields.String())


class RevisionSchema(RevisionBaseSchema):
    """Revision of a job definition."""

    job = fields.String()


class DifferenceSchema(ResponseSchema):
    """Difference between two executions or two schedules."""

    part = text_field(
        "Part that differs.",
        validate=ma.validate.OneOf(
            ["revision", "definition", "parameters", "overrides", "code_version", "worker", "host", "schedule"]
        ),
    )
    pointer = text_field("Place in the part (RFC 6901); empty: the whole part.")
    change = fields.String(validate=ma.validate.OneOf(["added", "removed", "changed"]))
    before = fields.Raw(allow_none=True)
    now = fields.Raw(allow_none=True)


class SuccessSchema(ResponseSchema):
    """Last success, with which an execution is compared."""

    id = fields.String()
    job_revision = fields.Integer()
    code_version = fields.String(allow_none=True)
    worker = fields.String(allow_none=True)
    finished_at = datetime_field("Time when the execution succeeded.", allow_none=True)
    links = fields.Dict(values=fields.String())


class ChangesSchema(ResponseSchema):
    """Differences of an execution from the last earlier success of its job."""

    id = fields.String()
    job = fields.String()
    last_success = fields.Nested(
        SuccessSchema, allow_none=True, metadata={"description": "Last success before this execution; null: none."}
    )
    differences = fields.List(fields.Nested(DifferenceSchema))
