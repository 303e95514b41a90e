"""Schemas of the files of executions."""

from marshmallow import fields

from jobworker.api.schemas.base import ResponseSchema, datetime_field, integer_field, text_field


class ResultFileSchema(ResponseSchema):
    """Result that is too long for the database."""

    name = fields.String()
    size = integer_field("Size of the JSON text in bytes.")
    sha256 = text_field("SHA-256 of the file in hexadecimal.")
    host = text_field("Host on which the worker wrote the file.")
    url = text_field("URL of the file, available if the host of the API has it.")


class KeptFileSchema(ResponseSchema):
    """File that a job stored."""

    name = fields.String()
    size = integer_field("Size in bytes.")
    sha256 = text_field("SHA-256 in hexadecimal; only of results.", allow_none=True)
    modified_at = datetime_field("Time when the file was written; null: the file is not on this host.", allow_none=True)
    host = text_field("Host that has the file.")
    here = fields.Boolean(metadata={"description": "Whether the host of the API has the file."})
    links = fields.Dict(values=fields.String())
