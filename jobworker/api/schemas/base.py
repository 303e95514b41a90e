"""What all schemas share: nothing unknown is let in, and answers say which of their fields are always there."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, LimitField
from jobworker.store.pagination import DEFAULT_LIMIT, MAX_LIMIT


class StrictSchema(ma.Schema):
    """A schema whose complaint about an unknown field says which are known."""

    class Meta:
        """Order and strictness of all our schemas."""

        unknown = ma.RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known = ", ".join(sorted(each.data_key or name for name, each in self.load_fields.items()))
        self.error_messages["unknown"] = CodedMessage(
            "unknown_field", f"is not known here; known are: {known or 'none'}"
        )
        self.error_messages["type"] = CodedMessage("wrong_type", "must be a JSON object")


class ResponseSchema(StrictSchema):
    """The description of something we answer: every field is always there, and others may come with a later version."""

    class Meta:
        """Clients must not trip over a new field."""

        unknown = ma.EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Mark the field as required, which in the description of an answer means "always present"."""
        field_obj.required = True


class PageQuerySchema(StrictSchema):
    """Which part of a list to show."""

    limit = LimitField(DEFAULT_LIMIT, MAX_LIMIT)
    cursor = fields.String(load_default=None, metadata={"description": "`next` of the page before.", "maxLength": 1000})


class ProblemPlaceSchema(ResponseSchema):
    """One thing wrong in one place of the request."""

    pointer = fields.String(
        metadata={"description": "RFC 6901 pointer into the body, or the name of a query parameter or header."}
    )
    code = fields.String()
    message = fields.String()


class ProblemSchema(ResponseSchema):
    """An error (RFC 9457)."""

    type = fields.String(metadata={"description": "A URN made from `code`."})
    title = fields.String()
    status = fields.Integer()
    code = fields.String(metadata={"description": "Stable; programs may rely on it."})
    detail = fields.String(metadata={"description": "For people: what is wrong, and what to do."})
    errors = fields.List(fields.Nested(ProblemPlaceSchema))
    request_id = fields.String()


def text_field(description: str, **options: Any) -> fields.String:
    """A text that an answer has."""
    return fields.String(metadata={"description": description}, **options)


def datetime_field(description: str, **options: Any) -> fields.String:
    """A time that an answer has."""
    return fields.String(metadata={"description": description, "format": "date-time"}, **options)


def number_field(description: str, **options: Any) -> fields.Float:
    """A number that an answer has."""
    return fields.Float(metadata={"description": description}, **options)


def integer_field(description: str, **options: Any) -> fields.Integer:
    """An integer that an answer has."""
    return fields.Integer(metadata={"description": description}, **options)


class UnreadableSchema(ResponseSchema):
    """A row that cannot be read."""

    row = text_field("What it is: its kind, and its name or id.")
    problem = text_field("Why it is left out, or what of it.")


def make_page_schema(item_schema: type[StrictSchema]) -> StrictSchema:
    """The description of a page of such items."""
    item = item_schema.__name__.removesuffix("Schema")
    members = {
        "items": fields.List(fields.Nested(item_schema)),
        "next": text_field("Cursor of the next page; null: this is the last one.", allow_none=True),
        "unreadable": fields.List(
            fields.Nested(UnreadableSchema),
            metadata={"description": "Rows that cannot be read as they stand in the database; absent without any."},
        ),
    }
    schema: StrictSchema = type(f"{item}PageSchema", (ResponseSchema,), {"__doc__": f"A page of {item}.", **members})()
    schema.fields["unreadable"].required = False
    return schema
