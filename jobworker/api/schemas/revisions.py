"""Revisions of definitions, and what executions did otherwise."""

import marshmallow as ma
from marshmallow import fields

from jobworker.api.schemas.base import ResponseSchema, datetime_field, integer_field, text_field


class RevisionBaseSchema(ResponseSchema):
    """What every revision has."""

    revision = integer_field("Counts the changes, from 1.")
    created_at = datetime_field("When it was made.")
    actor = text_field("Who made it; `code…` is code that declares it.")
    changed = fields.List(
        fields.String(),
        allow_none=True,
        metadata={"description": "JSON pointers to what is different from the revision before; null: it is the first."},
    )
    definition = fields.Dict()
    links = fields.Dict(values=fields.String())


class RevisionSchema(RevisionBaseSchema):
    """The definition of a job as it was."""

    job = fields.String()


class DifferenceSchema(ResponseSchema):
    """One place where two executions, or two schedules, differ."""

    part = text_field(
        "What differs.",
        validate=ma.validate.OneOf(
            ["revision", "definition", "parameters", "overrides", "code_version", "worker", "host", "schedule"]
        ),
    )
    pointer = text_field("Where in it (RFC 6901); empty: all of it.")
    change = fields.String(validate=ma.validate.OneOf(["added", "removed", "changed"]))
    before = fields.Raw(allow_none=True)
    now = fields.Raw(allow_none=True)


class SuccessSchema(ResponseSchema):
    """The execution that is compared with."""

    id = fields.String()
    job_revision = fields.Integer()
    code_version = fields.String(allow_none=True)
    worker = fields.String(allow_none=True)
    finished_at = datetime_field("When it succeeded.", allow_none=True)
    links = fields.Dict(values=fields.String())


class ChangesSchema(ResponseSchema):
    """What is different from the last success of the same job before it."""

    id = fields.String()
    job = fields.String()
    last_success = fields.Nested(SuccessSchema, allow_none=True, metadata={"description": "null: there was none."})
    differences = fields.List(fields.Nested(DifferenceSchema))
