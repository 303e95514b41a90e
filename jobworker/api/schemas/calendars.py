"""Calendars. Their parser in the domain says what is wrong; here is what they look like."""

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
    "description": "Public holidays of countries, or of parts of them (ISO 3166); `/countries` lists them.",
    "example": [{"country": "DE", "subdivision": "BY"}],
}
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "name": {"type": "string", "description": "Its own name.", "example": "office"},
    "kind": {
        "type": "string",
        "enum": [BusinessCalendar.kind, DateCalendar.kind],
        "description": "Working time, or what is listed.",
    },
    "description": {"type": "string", "description": "For people."},
    "holidays": _HOLIDAYS,
    "weekend": {
        "type": "array",
        "items": {"type": "string", "enum": [*WEEKDAYS]},
        "description": "business: on these days of the week nobody works.",
        "default": ["saturday", "sunday"],
    },
    "closed": {
        **_NAMED_DATES,
        "description": "business: other days when nobody works, with their names; or a list of dates.",
        "example": {"2026-12-24": "Christmas Eve"},
    },
    "opened": {
        **_STRINGS,
        "description": "business: days when people work whatever else is said.",
        "example": ["2026-12-19"],
    },
    "hours": {
        "type": "object",
        "properties": dict.fromkeys(WEEKDAYS, _STRINGS),
        "additionalProperties": False,
        "description": "business: when people work on which days of the week; null: all day.",
        "example": {"monday": ["09:00-12:30", "13:30-18:00"]},
    },
    "days": {
        **_NAMED_DATES,
        "description": "dates: days with their names; or a list of dates.",
        "example": {"2026-06-30": "closing"},
    },
    "windows": {
        "type": "array",
        "items": _object_schema(("from", "to"), "name"),
        "description": "dates: times from `from` up to `to`, on the wall clock of whoever uses the calendar.",
        "example": [{"from": "2026-12-31T22:00", "to": "2027-01-01T06:00", "name": "year's end"}],
    },
}


def _raw_field(name: str) -> fields.Raw:
    return fields.Raw(allow_none=True, metadata=dict(_FIELDS[name]))


class CalendarBodySchema(StrictSchema):
    """A calendar as somebody writes it; what is left out has its default."""

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
    """A calendar that replaces the one named in the URL; `name` may be left out, not differ."""

    name = _raw_field("name")


class CalendarSummarySchema(ResponseSchema):
    """A calendar in a list."""

    name = fields.String()
    kind = fields.String(validate=ma.validate.OneOf([BusinessCalendar.kind, DateCalendar.kind]))
    description = fields.String()
    owner = text_field(
        "`code`: changed there, not over the API.", validate=ma.validate.OneOf([each.value for each in JobOwner])
    )
    revision = integer_field("Counts the changes; the ETag is made from it.")
    created_at = datetime_field("When it was first made.")
    changed_at = datetime_field("When it was last changed.")
    links = fields.Dict(values=fields.String())


class CalendarSchema(CalendarSummarySchema):
    """A calendar. Which of its other fields there are depends on `kind`."""

    holidays = fields.List(fields.Dict(), metadata={"description": _HOLIDAYS["description"]})

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Fields of one kind are not always there."""
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
    """A calendar as it was."""

    calendar = fields.String()


class DaysQuerySchema(StrictSchema):
    """Which days to show."""

    first = DateField(
        data_key="from", required=True, metadata={"format": "date", "description": "The first day.", "type": "string"}
    )
    end = DateField(
        data_key="to",
        required=True,
        metadata={
            "format": "date",
            "description": "The day after the last one; at most 366 days on.",
            "type": "string",
        },
    )


class ImportQuerySchema(StrictSchema):
    """How to read a file."""

    zone = fields.String(
        load_default=None,
        metadata={"description": "On the clock of this IANA zone times are meant; absent: as the file says."},
    )
    dry_run = fields.String(
        load_default=None,
        metadata={"description": "`true`: nothing is written, only told.", "enum": ["true"]},
    )

    include_free = fields.String(
        load_default=None,
        metadata={
            "description": "`true`: events that are free time (TRANSP:TRANSPARENT) count, too.",
            "enum": ["true"],
        },
    )

    @ma.validates("dry_run", "include_free")
    def check_true(self, value: str | None, data_key: str) -> None:
        """Only `true` says anything."""
        if value not in (None, "true"):
            raise ma.ValidationError(CodedMessage("not_allowed", "must be true, or left out"))


class LeftOutEventSchema(ResponseSchema):
    """An event of a file that adds nothing."""

    uid = fields.String(allow_none=True)
    name = fields.String()
    reason = fields.String()


class CalendarImportSchema(ResponseSchema):
    """What came of a file."""

    name = fields.String()
    dry_run = fields.Boolean()
    created = fields.Boolean(metadata={"description": "Whether the calendar is new."})
    changed = fields.Boolean(metadata={"description": "Whether the file says anything else than the calendar did."})
    revision = integer_field("The current one; null: there is none yet.", allow_none=True)
    zone = text_field("On whose clock times are; null: no time of the file needs one.", allow_none=True)
    first = text_field("From this day on events were looked at.", data_key="from")
    end = text_field("Up to this day; without it.", data_key="to")
    events = integer_field("Events in the file.")
    days = fields.Dict(metadata={"description": "The days with their names, as the calendar has them."})
    windows = fields.List(fields.Dict())
    left_out = fields.List(
        fields.Nested(LeftOutEventSchema), metadata={"description": "At most 100 events that add nothing."}
    )
    left_out_total = integer_field("Events that add nothing.")
    links = fields.Dict(values=fields.String())


class CalendarDaySchema(ResponseSchema):
    """A day that the calendar holds, or has a name for."""

    date = text_field("The day.", allow_none=False)
    weekday = fields.String()
    name = text_field("What it is called: a holiday, for instance.", allow_none=True)
    holds = fields.List(
        fields.String(),
        metadata={"description": "Its times that belong to the calendar, such as 09:00-17:00; none of them: none."},
    )


class CalendarDaysSchema(ResponseSchema):
    """The days of a calendar."""

    items = fields.List(fields.Nested(CalendarDaySchema))


class CountrySchema(ResponseSchema):
    """A country whose public holidays are known."""

    code = fields.String()
    name = fields.String()
    subdivisions = fields.List(fields.String(), metadata={"description": "Its parts with holidays of their own."})


class CountriesSchema(ResponseSchema):
    """Every country whose public holidays are known."""

    items = fields.List(fields.Nested(CountrySchema))
