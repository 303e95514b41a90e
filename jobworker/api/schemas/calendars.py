"""Schemas of calendars. They describe the fields; the parser in the domain validates the values."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, DateField
from jobworker.api.schemas.base import ResponseSchema, StrictSchema, datetime_field, integer_field, text_field
from jobworker.api.schemas.revisions import RevisionBaseSchema
from jobworker.domain.calendars.calendars import WEEKDAYS, BusinessCalendar, DateCalendar
from jobworker.domain.jobs.definition import JobOwner

_STRING = {"type": "string"}
_STRING_OR_NULL = {"type": ["string", "null"]}


def _object_schema(required: tuple[str, ...], *optional: str) -> dict[str, Any]:
    properties = {**dict.fromkeys(required, _STRING), **dict.fromkeys(optional, _STRING_OR_NULL)}
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


_STRINGS = {"type": "array", "items": _STRING}
_NAMED_DATES = {"anyOf": [{"type": "object", "additionalProperties": _STRING}, _STRINGS, {"type": "null"}]}
_HOLIDAYS = {
    "type": "array",
    "items": _object_schema(("country",), "subdivision"),
    "description": "Public holidays of countries or subdivisions (ISO 3166); `/countries` lists both.",
    "example": [{"country": "DE", "subdivision": "BY"}],
}
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "name": {"type": "string", "description": "Unique name of the calendar.", "example": "office"},
    "kind": {
        "type": "string",
        "enum": [BusinessCalendar.kind, DateCalendar.kind],
        "description": "Kind: working time, or a list of dates.",
    },
    "description": {"type": "string", "description": "Human-readable description."},
    "holidays": _HOLIDAYS,
    "weekend": {
        "type": "array",
        "items": {"type": "string", "enum": [*WEEKDAYS]},
        "description": "Kind business: days of the week without working time.",
        "default": ["saturday", "sunday"],
    },
    "closed": {
        **_NAMED_DATES,
        "description": "Kind business: other days without working time, as an object from dates to names or as dates.",
        "example": {"2026-12-24": "Christmas Eve"},
    },
    "opened": {
        **_STRINGS,
        "description": "Kind business: working days that override weekend, holidays and closed.",
        "example": ["2026-12-19"],
    },
    "hours": {
        "type": "object",
        "properties": dict.fromkeys(WEEKDAYS, _STRINGS),
        "additionalProperties": False,
        "description": "Kind business: working hours by day of the week; null: all day.",
        "example": {"monday": ["09:00-12:30", "13:30-18:00"]},
    },
    "days": {
        **_NAMED_DATES,
        "description": "Kind dates: days, as an object from dates to names or as a list of dates.",
        "example": {"2026-06-30": "closing"},
    },
    "windows": {
        "type": "array",
        "items": _object_schema(("from", "to"), "name"),
        "description": "Kind dates: times from `from` up to `to`, in the time zone of the schedule that uses them.",
        "example": [{"from": "2026-12-31T22:00", "to": "2027-01-01T06:00", "name": "year's end"}],
    },
}


def _raw_field(name: str) -> fields.Raw:
    return fields.Raw(allow_none=True, metadata=dict(_FIELDS[name]))


class CalendarBodySchema(StrictSchema):
    """Calendar in a request; omitted fields have their defaults."""

    name = fields.Raw(required=True, metadata=dict(_FIELDS["name"]))
    kind = fields.Raw(required=True, metadata=dict(_FIELDS["kind"]))
    description = _raw_field("description")
    weekend = _raw_field("weekend")
    holidays = _raw_field("holidays")
    closed = _raw_field("closed")
    opened = _raw_field("opened")
    hours = _raw_field("hours")
    days = _raw_field("days")
    windows = _raw_field("windows")


class CalendarReplacementBodySchema(CalendarBodySchema):
    """Replacement of the calendar named in the URL; `name` may be omitted, but must not differ."""

    name = _raw_field("name")


class CalendarSummarySchema(ResponseSchema):
    """Calendar in a list."""

    name = fields.String()
    kind = fields.String(validate=ma.validate.OneOf([BusinessCalendar.kind, DateCalendar.kind]))
    description = fields.String()
    owner = text_field(
        "Owner; a calendar owned by `code` is changed there, not over the API.",
        validate=ma.validate.OneOf([owner.value for owner in JobOwner]),
    )
    revision = integer_field("Number of the current revision, used as the ETag.")
    created_at = datetime_field("Time when the calendar was created.")
    changed_at = datetime_field("Time when the calendar was last changed.")
    links = fields.Dict(values=fields.String())


class CalendarSchema(CalendarSummarySchema):
    """Calendar, with the fields of its `kind`."""

    holidays = fields.List(fields.Dict(), metadata={"description": _HOLIDAYS["description"]})

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Mark the field as required unless only one kind of calendar has it."""
        if field_name not in _KIND_SPECIFIC_FIELDS:
            super().on_bind_field(field_name, field_obj)

    weekend = _raw_field("weekend")
    closed = _raw_field("closed")
    opened = _raw_field("opened")
    hours = _raw_field("hours")
    days = _raw_field("days")
    windows = _raw_field("windows")


_KIND_SPECIFIC_FIELDS = {"weekend", "closed", "opened", "hours", "days", "windows"}


class CalendarRevisionSchema(RevisionBaseSchema):
    """Revision of a calendar."""

    calendar = fields.String()


class DaysQuerySchema(StrictSchema):
    """Query parameters that select a range of days."""

    first = DateField(
        data_key="from", required=True, metadata={"format": "date", "description": "First day.", "type": "string"}
    )
    end = DateField(
        data_key="to",
        required=True,
        metadata={
            "format": "date",
            "description": "Day after the last one, at most 366 days after `from`.",
            "type": "string",
        },
    )


class ImportQuerySchema(StrictSchema):
    """Query parameters of an import."""

    zone = fields.String(
        load_default=None,
        metadata={"description": "IANA time zone of the times in the calendar; absent: the zone of the file."},
    )
    dry_run = fields.String(
        load_default=None,
        metadata={"description": "`true`: return the result without changing anything.", "enum": ["true"]},
    )

    include_free = fields.String(
        load_default=None,
        metadata={
            "description": "`true`: import events that are free time (TRANSP:TRANSPARENT), too.",
            "enum": ["true"],
        },
    )

    @ma.validates("dry_run", "include_free")
    def check_true(self, value: str | None, data_key: str) -> None:
        """Raise an error for values other than `true`."""
        if value not in (None, "true"):
            raise ma.ValidationError(CodedMessage("not_allowed", "must be true, or omitted"))


class LeftOutEventSchema(ResponseSchema):
    """Event of a file that was skipped."""

    uid = fields.String(allow_none=True)
    name = fields.String()
    reason = fields.String()


class CalendarImportSchema(ResponseSchema):
    """Result of an import."""

    name = fields.String()
    dry_run = fields.Boolean()
    created = fields.Boolean(metadata={"description": "Whether the calendar is new."})
    changed = fields.Boolean(metadata={"description": "Whether the import changes the calendar."})
    revision = integer_field("Number of the current revision; null: the calendar does not exist.", allow_none=True)
    zone = text_field("Time zone of the times; null: no time in the file needs one.", allow_none=True)
    first = text_field("First day of the imported range.", data_key="from")
    end = text_field("Day after the last one of the imported range.", data_key="to")
    events = integer_field("Number of events in the file.")
    days = fields.Dict(metadata={"description": "Days of the calendar with their names."})
    windows = fields.List(fields.Dict())
    left_out = fields.List(fields.Nested(LeftOutEventSchema), metadata={"description": "Skipped events, at most 100."})
    left_out_total = integer_field("Number of skipped events.")
    links = fields.Dict(values=fields.String())


class CalendarDaySchema(ResponseSchema):
    """Day that is in the calendar or that it has a name for."""

    date = text_field("Date.", allow_none=False)
    weekday = fields.String()
    name = text_field("Name of the day, such as that of a holiday.", allow_none=True)
    holds = fields.List(
        fields.String(),
        metadata={"description": "Times of the day that are in the calendar, such as 09:00-17:00; empty if none are."},
    )


class CalendarDaysSchema(ResponseSchema):
    """Days of a calendar."""

    items = fields.List(fields.Nested(CalendarDaySchema))


class CountrySchema(ResponseSchema):
    """Country whose public holidays are known."""

    code = fields.String()
    name = fields.String()
    subdivisions = fields.List(fields.String(), metadata={"description": "Subdivisions with holidays of their own."})


class CountriesSchema(ResponseSchema):
    """List of the countries whose public holidays are known."""

    items = fields.List(fields.Nested(CountrySchema))
