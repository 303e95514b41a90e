"""Schemas of schedules. They describe the fields; the parser in the domain validates the values."""

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

_SECONDS = "In seconds or ISO 8601."
_OVERLAP_VALUES = [policy.value for policy in schedule.OverlapPolicy]
_MISSED_VALUES = [policy.value for policy in schedule.MissedOccurrencePolicy]

_RULE = {
    "type": "object",
    "description": "Rule by which the schedule is due, in the local time of `zone`: kind once (at), interval (every, "
    "anchor), daily (time), weekly (days, time), monthly (day, time), business_day (n, time, roll), cron (expression) "
    "or rrule (expression, start).",
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
    "name": {**_TEXT, "pattern": _NAME, "description": "Unique name of the schedule.", "example": "monthly-report"},
    "job": {**_TEXT, "pattern": _NAME, "description": "Job that the schedule starts.", "example": "report"},
    "description": {**_TEXT, "description": "Human-readable description."},
    "enabled": {**_FLAG, "description": "Whether the schedule is enabled; false: it is never due.", "default": True},
    "rule": _RULE,
    "zone": {**_TEXT, "description": "IANA time zone of the rule.", "default": "UTC", "example": "Europe/Berlin"},
    "calendar": {
        **_TEXT,
        "description": "Calendar whose business days a business_day rule counts; null: Monday to Friday.",
    },
    "require": {**_TEXTS, "description": "Calendars whose times an occurrence must be in."},
    "exclude": {**_TEXTS, "description": "Calendars whose times an occurrence must not be in."},
    "dst": {
        "type": "object",
        "description": "Policy for changes of clocks: gap (shift, skip) and fold (first, second, both); null: default "
        "of the kind of rule.",
        "example": {"gap": "skip", "fold": "both"},
    },
    "start": {**_TIME, "description": "Time from which the schedule is due, inclusive (RFC 3339)."},
    "end": {**_TIME, "description": "Time until which the schedule is due, exclusive (RFC 3339)."},
    "max_runs": {**_INTEGER, "description": "Number of executions after which the schedule is exhausted."},
    "initial_delay": {
        **_DURATION,
        "description": f"Time after its creation in which the schedule is not due. {_SECONDS}",
    },
    "run_at_start": {
        **_FLAG,
        "description": "Whether the schedule is also due when it is created and whenever the system starts.",
    },
    "jitter": {**_DURATION, "description": f"Maximum random delay of each execution. {_SECONDS}"},
    "spread": {
        **_DURATION,
        "description": f"Maximum delay of all executions: a share that is fixed for each schedule. {_SECONDS}",
    },
    "parameters": {
        "type": "object",
        "description": "Parameters of its executions; omitted ones have the defaults of the job.",
    },
    "queue": {**_TEXT, "description": "Queue of its executions; null: that of the job."},
    "priority": {
        "type": "integer",
        "minimum": PRIORITIES.start,
        "maximum": PRIORITIES.stop - 1,
        "description": "Priority of its executions; null: that of the job.",
    },
    "overlap": {
        "type": "string",
        "enum": [*_OVERLAP_VALUES, None],
        "description": "Overlap policy for an occurrence while an execution of the schedule is unfinished.",
        "default": "skip",
    },
    "misfire": {
        "type": "object",
        "description": "Misfire policy for occurrences that are evaluated more than grace (s) late: policy fire_once, "
        "skip, or catch_up for the latest max occurrences.",
        "example": {"policy": "catch_up", "grace": 60, "max": 100},
    },
    "on_resume": {**_POLICY, "description": "Policy for the occurrences of a pause when the schedule is resumed."},
    "pause_after_failures": {
        **_INTEGER,
        "description": "Number of consecutive failures after which the schedule is paused; null: never.",
    },
}


def _raw_field(name: str) -> fields.Raw:
    return fields.Raw(allow_none=True, metadata=dict(_FIELDS[name]))


class ScheduleBodySchema(StrictSchema):
    """Schedule in a request; omitted fields have their defaults."""

    name = fields.Raw(required=True, metadata=dict(_FIELDS["name"]))
    job = fields.Raw(required=True, metadata=dict(_FIELDS["job"]))
    rule = fields.Raw(required=True, metadata=_RULE)
    description = _raw_field("description")
    enabled = _raw_field("enabled")
    zone = _raw_field("zone")
    calendar = _raw_field("calendar")
    require = _raw_field("require")
    # Named `excluded` because marshmallow's schemas have an attribute `exclude`.
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
    """Replacement of the schedule named in the URL; `name` may be omitted, but must not differ."""

    name = fields.Raw(
        metadata={**_TEXT, "description": "Optional; must be the name in the URL because a schedule cannot be renamed."}
    )


class ScheduleQuerySchema(PageQuerySchema):
    """Query parameters of the list of schedules."""

    job = fields.String(load_default=None, validate=check_text)
    owner = fields.String(
        load_default=None, validate=ma.validate.OneOf([owner.value for owner in schedule.ScheduleOwner])
    )
    state = fields.String(load_default=None, validate=ma.validate.OneOf([status.value for status in ScheduleStatus]))
    calendar = fields.String(
        load_default=None, validate=check_text, metadata={"description": "Filter: schedules that use this calendar."}
    )
    overdue = fields.String(
        load_default=None,
        metadata={"description": "`true`: only overdue schedules.", "enum": ["true"]},
    )

    @ma.validates("overdue")
    def check_overdue(self, value: str | None, data_key: str) -> None:
        """Raise an error for values other than `true`."""
        if value not in (None, "true"):
            raise ma.ValidationError(CodedMessage("not_allowed", "must be true, or omitted"))


class SchedulePauseBodySchema(StrictSchema):
    """Options of pausing a schedule."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE_LENGTH),
        metadata={"description": "Note shown with the schedule and its occurrences.", "maxLength": MAX_NOTE_LENGTH},
    )
    until = DateTimeField(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "Time when the pause ends; null: when the schedule is resumed.",
        },
    )


class ScheduleResumeBodySchema(StrictSchema):
    """Options of resuming a schedule."""

    policy = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf(_MISSED_VALUES),
        metadata={"description": "Policy for the occurrences of the pause; null: `on_resume` of the schedule."},
    )


class MisfireSchema(ResponseSchema):
    """Misfire policy of a schedule."""

    policy = fields.String(validate=ma.validate.OneOf(_MISSED_VALUES))
    grace = fields.Float()
    max = fields.Integer()


class SchedulePauseSchema(ResponseSchema):
    """Current pause of a schedule."""

    at = datetime_field("Time when the pause began.")
    by = text_field("Actor that paused the schedule.", allow_none=True)
    note = text_field("Note on the pause.", allow_none=True)
    until = datetime_field("Time when the pause ends; null: when the schedule is resumed.", allow_none=True)


class ScheduleSchema(ResponseSchema):
    """Schedule and its state."""

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
    start = datetime_field("Time from which the schedule is due, inclusive.", allow_none=True)
    end = datetime_field("Time until which the schedule is due, exclusive.", allow_none=True)
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
        "Owner; a schedule owned by `code` or `job` is changed there, not over this endpoint.",
        validate=ma.validate.OneOf([owner.value for owner in schedule.ScheduleOwner]),
    )
    revision = integer_field("Number of the current revision, used as the ETag.")
    state = text_field(
        "`active`, or the first reason why the schedule starts no executions.",
        validate=ma.validate.OneOf([status.value for status in ScheduleStatus]),
    )
    paused = fields.Nested(SchedulePauseSchema, allow_none=True)
    next_at = datetime_field("Nominal time of the next occurrence; null: no occurrence follows.", allow_none=True)
    settled_until = datetime_field("Time up to which all occurrences have been evaluated and recorded.")
    expected_by = datetime_field(
        "Latest time by which the next occurrence is recorded; null: none is expected.", allow_none=True
    )
    overdue = fields.Boolean(metadata={"description": "Whether `expected_by` has passed."})
    runs = integer_field("Number of executions so far.")
    failures = integer_field("Number of consecutive failures up to the latest execution.")
    in_words = text_field("Description of the rule in plain English; null: it is not readable.", allow_none=True)
    warnings = fields.List(fields.String(), metadata={"description": "Warnings about probable mistakes."})
    created_at = datetime_field("Time when the schedule was created.")
    changed_at = datetime_field("Time when the schedule was last changed, paused or resumed.")
    links = fields.Dict(values=fields.String())


class ScheduleRevisionSchema(RevisionBaseSchema):
    """Revision of a schedule."""

    schedule = fields.String()
