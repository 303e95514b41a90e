"""Schedules. Their parser in the domain says what is wrong; here is what they look like."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, DateTimeField
from jobworker.api.schemas.base import (
    PageQuerySchema,
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    text_field,
)
from jobworker.api.schemas.filters import check_text
from jobworker.api.schemas.revisions import RevisionBaseSchema
from jobworker.domain.executions.execution import PRIORITIES
from jobworker.domain.jobs.definition import NAME_PATTERN
from jobworker.domain.schedules import schedule
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.services.queues import MAX_NOTE_LENGTH

_SECONDS = "Seconds, or ISO 8601."
_OVERLAP_VALUES = [each.value for each in schedule.OverlapPolicy]
_MISSED_VALUES = [each.value for each in schedule.MissedOccurrencePolicy]

_RULE = {
    "type": "object",
    "description": "When it is due, on the wall clock of `zone`: kind once (at), interval (every, anchor), daily "
    "(time), weekly (days, time), monthly (day, time), business_day (n, time, roll), cron (expression) or rrule "
    "(expression, start).",
    "example": {"kind": "business_day", "n": 10, "time": "18:00", "roll": "preceding"},
}
_NAME = f"^{NAME_PATTERN.pattern.removesuffix(chr(92) + 'Z')}$"
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FLAG = {"type": "boolean"}
_INTEGER = {"type": "integer", "minimum": 1}
_DURATION = {"type": ["number", "string"]}
_TIME = {"type": "string", "format": "date-time"}
_POLICY = {"type": "string", "enum": [*_MISSED_VALUES, None]}
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "name": {**_TEXT, "pattern": _NAME, "description": "Its own name.", "example": "monthly-report"},
    "job": {**_TEXT, "pattern": _NAME, "description": "The job that it starts.", "example": "report"},
    "description": {**_TEXT, "description": "For people."},
    "enabled": {**_FLAG, "description": "false: nothing is due.", "default": True},
    "rule": _RULE,
    "zone": {**_TEXT, "description": "An IANA time zone.", "default": "UTC", "example": "Europe/Berlin"},
    "calendar": {**_TEXT, "description": "By whose business days a business_day rule counts; null: Monday to Friday."},
    "require": {**_TEXTS, "description": "Calendars to whose times it is kept."},
    "exclude": {**_TEXTS, "description": "Calendars from whose times it is kept away."},
    "dst": {
        "type": "object",
        "description": "When clocks change: gap (shift, skip) and fold (first, second, both); null: as people mean "
        "the rule.",
        "example": {"gap": "skip", "fold": "both"},
    },
    "start": {**_TIME, "description": "Nothing is due before this time (RFC 3339)."},
    "end": {**_TIME, "description": "Nothing is due at this time or later (RFC 3339)."},
    "max_runs": {**_INTEGER, "description": "After so many executions it is exhausted."},
    "initial_delay": {**_DURATION, "description": f"Nothing is due so soon after it was created. {_SECONDS}"},
    "run_at_start": {
        **_FLAG,
        "description": "Whether it is due, too, when it is created and whenever the system starts.",
    },
    "jitter": {**_DURATION, "description": f"Each execution starts up to so much later, by chance. {_SECONDS}"},
    "spread": {**_DURATION, "description": f"Every execution starts later by the same share of so much. {_SECONDS}"},
    "parameters": {
        "type": "object",
        "description": "Of its executions; what is left out is as the job's defaults say.",
    },
    "queue": {**_TEXT, "description": "Of its executions; null: the job's."},
    "priority": {
        "type": "integer",
        "minimum": PRIORITIES.start,
        "maximum": PRIORITIES.stop - 1,
        "description": "Of its executions; null: the job's.",
    },
    "overlap": {
        "type": "string",
        "enum": [*_OVERLAP_VALUES, None],
        "description": "What becomes of an occurrence while an execution of the schedule is unfinished.",
        "default": "skip",
    },
    "misfire": {
        "type": "object",
        "description": "What becomes of occurrences that are noticed later than grace (s): policy fire_once, skip, or "
        "catch_up for the latest max of them.",
        "example": {"policy": "catch_up", "grace": 60, "max": 100},
    },
    "on_resume": {**_POLICY, "description": "What becomes of the occurrences of a pause."},
    "pause_after_failures": {
        **_INTEGER,
        "description": "After so many failures in a row it is paused; null: it goes on.",
    },
}


def _raw_field(name: str) -> fields.Raw:
    return fields.Raw(allow_none=True, metadata=dict(_FIELDS[name]))


class ScheduleBodySchema(StrictSchema):
    """A schedule as somebody writes it; what is left out has its default."""

    name = fields.Raw(required=True, metadata=dict(_FIELDS["name"]))
    job = fields.Raw(required=True, metadata=dict(_FIELDS["job"]))
    rule = fields.Raw(required=True, metadata=_RULE)
    description = _raw_field("description")
    enabled = _raw_field("enabled")
    zone = _raw_field("zone")
    calendar = _raw_field("calendar")
    require = _raw_field("require")
    # marshmallow's own schemas have an attribute `exclude`.
    excluded = fields.Raw(data_key="exclude", attribute="exclude", allow_none=True, metadata=dict(_FIELDS["exclude"]))
    dst = _raw_field("dst")
    start = _raw_field("start")
    end = _raw_field("end")
    max_runs = _raw_field("max_runs")
    initial_delay = _raw_field("initial_delay")
    run_at_start = _raw_field("run_at_start")
    jitter = _raw_field("jitter")
    spread = _raw_field("spread")
    parameters = _raw_field("parameters")
    queue = _raw_field("queue")
    priority = _raw_field("priority")
    overlap = _raw_field("overlap")
    misfire = _raw_field("misfire")
    on_resume = _raw_field("on_resume")
    pause_after_failures = _raw_field("pause_after_failures")


class ScheduleReplacementBodySchema(ScheduleBodySchema):
    """A schedule that replaces the one named in the URL; `name` may be left out, not differ."""

    name = fields.Raw(metadata={**_TEXT, "description": "May be left out: a schedule cannot be renamed."})


class ScheduleQuerySchema(PageQuerySchema):
    """Which schedules to list."""

    job = fields.String(load_default=None, validate=check_text)
    owner = fields.String(
        load_default=None, validate=ma.validate.OneOf([each.value for each in schedule.ScheduleOwner])
    )
    state = fields.String(load_default=None, validate=ma.validate.OneOf([each.value for each in ScheduleStatus]))
    calendar = fields.String(load_default=None, validate=check_text, metadata={"description": "Which use it."})
    overdue = fields.String(
        load_default=None,
        metadata={"description": "`true`: only those that should have been due by now.", "enum": ["true"]},
    )

    @ma.validates("overdue")
    def check_overdue(self, value: str | None, data_key: str) -> None:
        """Only `true` says anything."""
        if value not in (None, "true"):
            raise ma.ValidationError(CodedMessage("not_allowed", "must be true, or left out"))


class SchedulePauseBodySchema(StrictSchema):
    """Why a schedule is paused, and for how long."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE_LENGTH),
        metadata={"description": "Shown with the schedule and its occurrences.", "maxLength": MAX_NOTE_LENGTH},
    )
    until = DateTimeField(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "When it goes on by itself; null: when somebody resumes it.",
        },
    )


class ScheduleResumeBodySchema(StrictSchema):
    """How a schedule goes on."""

    policy = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf(_MISSED_VALUES),
        metadata={"description": "What becomes of the occurrences of the pause; null: as its `on_resume` says."},
    )


class MisfireSchema(ResponseSchema):
    """What becomes of occurrences that nobody noticed in time."""

    policy = fields.String(validate=ma.validate.OneOf(_MISSED_VALUES))
    grace = fields.Float()
    max = fields.Integer()


class SchedulePauseSchema(ResponseSchema):
    """Why nothing of a schedule starts at present."""

    at = datetime_field("Since when.")
    by = text_field("Who paused it.", allow_none=True)
    note = text_field("Why.", allow_none=True)
    until = datetime_field("When it goes on by itself; null: when somebody resumes it.", allow_none=True)


class ScheduleSchema(ResponseSchema):
    """A schedule."""

    id = fields.String()
    name = fields.String()
    job = fields.String()
    description = fields.String()
    enabled = fields.Boolean()
    rule = fields.Dict()
    zone = fields.String()
    calendar = fields.String(allow_none=True)
    require = fields.List(fields.String())
    excluded = fields.List(fields.String(), data_key="exclude")
    dst = fields.Dict(allow_none=True)
    start = datetime_field("Nothing is due before.", allow_none=True)
    end = datetime_field("Nothing is due then or later.", allow_none=True)
    max_runs = fields.Integer(allow_none=True)
    initial_delay = fields.Float()
    run_at_start = fields.Boolean()
    jitter = fields.Float()
    spread = fields.Float()
    parameters = fields.Dict()
    queue = fields.String(allow_none=True)
    priority = fields.Integer(allow_none=True)
    overlap = fields.String(validate=ma.validate.OneOf(_OVERLAP_VALUES))
    misfire = fields.Nested(MisfireSchema)
    on_resume = fields.String(validate=ma.validate.OneOf(_MISSED_VALUES))
    pause_after_failures = fields.Integer(allow_none=True)
    owner = text_field(
        "`code` and `job`: changed there, not here.",
        validate=ma.validate.OneOf([each.value for each in schedule.ScheduleOwner]),
    )
    revision = integer_field("Counts the changes; the ETag is made from it.")
    state = text_field(
        "Whether it will start anything, and if not, why.",
        validate=ma.validate.OneOf([each.value for each in ScheduleStatus]),
    )
    paused = fields.Nested(SchedulePauseSchema, allow_none=True)
    next_at = datetime_field("The nominal time of what is due next; null: nothing is.", allow_none=True)
    settled_until = datetime_field("Up to here every occurrence is in the ledger.")
    expected_by = datetime_field(
        "When that is in the ledger at the latest; null: nobody waits for it.", allow_none=True
    )
    overdue = fields.Boolean(metadata={"description": "Whether that has passed."})
    runs = integer_field("Executions so far.")
    failures = integer_field("How many of them failed in a row, up to now.")
    in_words = text_field("When it is due, in plain English; null: it cannot be read.", allow_none=True)
    warnings = fields.List(fields.String(), metadata={"description": "What may not be meant."})
    created_at = datetime_field("When it was first described.")
    changed_at = datetime_field("When it was last changed, paused or resumed.")
    links = fields.Dict(values=fields.String())


class ScheduleRevisionSchema(RevisionBaseSchema):
    """A schedule as it was."""

    schedule = fields.String()
