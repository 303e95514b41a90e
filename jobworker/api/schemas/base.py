"""Base schemas: requests reject unknown fields, and responses declare the fields that are always present."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, LimitField
from jobworker.store.pagination import DEFAULT_LIMIT, MAX_LIMIT


class StrictSchema(ma.Schema):
    """Schema that rejects unknown fields with an error that lists the known ones."""

    class Meta:
        """Options of all schemas."""

        unknown = ma.RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        field_names = ", ".join(sorted(field.data_key or name for name, field in self.load_fields.items()))
        self.error_messages["unknown"] = CodedMessage(
            "unknown_field", f"is unknown; valid fields are: {field_names or 'none'}"
        )
        self.error_messages["type"] = CodedMessage("wrong_type", "must be a JSON object")


class ResponseSchema(StrictSchema):
    """Schema of a response: every field is always present, and later versions may add others."""

    class Meta:
        """Options that let clients accept new fields."""

        unknown = ma.EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Mark the field as required, which in the schema of a response means "always present"."""
        field_obj.required = True


class PageQuerySchema(StrictSchema):
    """Query parameters that select a page of a list."""

    limit = LimitField(DEFAULT_LIMIT, MAX_LIMIT)
    cursor = fields.String(
        load_default=None, metadata={"description": "`next` of the previous page.", "maxLength": 1000}
    )


class ProblemPlaceSchema(ResponseSchema):
    """Problem at one place of the request."""

    pointer = fields.String(
        metadata={"description": "RFC 6901 pointer into the body, or name of a query parameter or header."}
    )
    code = fields.String()
    message = fields.String()


class ProblemSchema(ResponseSchema):
    """Error response (RFC 9457)."""

    type = fields.String(metadata={"description": "URN that contains `code`."})
    title = fields.String()
    status = fields.Integer()
    code = fields.String(metadata={"description": "Stable code that programs may rely on."})
    detail = fields.String(metadata={"description": "Human-readable text: the problem and its remedy."})
    errors = fields.List(fields.Nested(ProblemPlaceSchema))
    request_id = fields.String()


def text_field(description: str, **options: Any) -> fields.String:
    """Return a text field of a response."""
    return fields.String(metadata={"description": description}, **options)


def datetime_field(description: str, **options: Any) -> fields.String:
    """Return a time field of a response."""
    return fields.String(metadata={"description": description, "format": "date-time"}, **options)


def number_field(description: str, **options: Any) -> fields.Float:
    """Return a number field of a response."""
    return fields.Float(metadata={"description": description}, **options)


def integer_field(description: str, **options: Any) -> fields.Integer:
    """Return an integer field of a response."""
    return fields.Integer(metadata={"description": description}, **options)


class UnreadableSchema(ResponseSchema):
    """Row that is not readable."""

    row = text_field("Kind of the row, and its name or id.")
    problem = text_field("Reason why the row, or a part of it, is omitted.")


def make_page_schema(item_schema: type[StrictSchema]) -> StrictSchema:
    """Return the schema of a page of items."""
    item = item_schema.__name__.removesuffix("Schema")
    members = {
        "items": fields.List(fields.Nested(item_schema)),
        "next": text_field("Cursor of the next page; null on the last page.", allow_none=True),
        "unreadable": fields.List(
            fields.Nested(UnreadableSchema),
            metadata={"description": "Rows that are not readable in the database; absent if all are readable."},
        ),
    }
    schema: StrictSchema = type(f"{item}PageSchema", (ResponseSchema,), {"__doc__": f"Page of {item}.", **members})()
    schema.fields["unreadable"].required = False
    return schema
