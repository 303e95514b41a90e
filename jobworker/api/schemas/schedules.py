"""Schedules. Their parser in the domain says what is wrong; here is what they look like."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Coded, Moment
from jobworker.api.schemas.base import Answer, PageQuery, Schema, integer, moment, text
from jobworker.api.schemas.filters import check_text
from jobworker.api.schemas.revisions import AsItWas
from jobworker.domain import schedule
from jobworker.domain.execution import PRIORITIES
from jobworker.domain.job import NAME
from jobworker.services.queues import MAX_NOTE
from jobworker.store.schedule_lists import Standing

_SECONDS = "Seconds, or ISO 8601."
_OVERLAPS = [each.value for each in schedule.Overlap]
_MISSED = [each.value for each in schedule.Missed]

_RULE = {
    "type": "object",
    "description": "When it is due, on the wall clock of `zone`: kind once (at), interval (every, anchor), daily "
    "(time), weekly (days, time), monthly (day, time), business_day (n, time, roll), cron (expression) or rrule "
    "(expression, start).",
    "example": {"kind": "business_day", "n": 10, "time": "18:00", "roll": "preceding"},
}
_NAME = f"^{NAME.pattern.removesuffix(chr(92) + 'Z')}$"
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FLAG = {"type": "boolean"}
_INTEGER = {"type": "integer", "minimum": 1}
_DURATION = {"type": ["number", "string"]}
_TIME = {"type": "string", "format": "date-time"}
_POLICY = {"type": "string", "enum": [*_MISSED, None]}
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
        "enum": [*_OVERLAPS, None],
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


def _given(name: str) -> fields.Raw:
    return fields.Raw(allow_none=True, metadata=dict(_FIELDS[name]))


class ScheduleBody(Schema):
    """A schedule as somebody writes it; what is left out has its default."""

    name = fields.Raw(required=True, metadata=dict(_FIELDS["name"]))
    job = fields.Raw(required=True, metadata=dict(_FIELDS["job"]))
    rule = fields.Raw(required=True, metadata=_RULE)
    description = _given("description")
    enabled = _given("enabled")
    zone = _given("zone")
    calendar = _given("calendar")
    require = _given("require")
    # marshmallow's own schemas have an attribute `exclude`.
    excluded = fields.Raw(data_key="exclude", attribute="exclude", allow_none=True, metadata=dict(_FIELDS["exclude"]))
    dst = _given("dst")
    start = _given("start")
    end = _given("end")
    max_runs = _given("max_runs")
    initial_delay = _given("initial_delay")
    run_at_start = _given("run_at_start")
    jitter = _given("jitter")
    spread = _given("spread")
    parameters = _given("parameters")
    queue = _given("queue")
    priority = _given("priority")
    overlap = _given("overlap")
    misfire = _given("misfire")
    on_resume = _given("on_resume")
    pause_after_failures = _given("pause_after_failures")


class ScheduleReplacementBody(ScheduleBody):
    """A schedule that replaces the one named in the URL; `name` may be left out, not differ."""

    name = fields.Raw(metadata={**_TEXT, "description": "May be left out: a schedule cannot be renamed."})


class ScheduleQuery(PageQuery):
    """Which schedules to list."""

    job = fields.String(load_default=None, validate=check_text)
    owner = fields.String(load_default=None, validate=ma.validate.OneOf([each.value for each in schedule.Owner]))
    state = fields.String(load_default=None, validate=ma.validate.OneOf([each.value for each in Standing]))
    calendar = fields.String(load_default=None, validate=check_text, metadata={"description": "Which use it."})
    overdue = fields.String(
        load_default=None,
        metadata={"description": "`true`: only those that should have been due by now.", "enum": ["true"]},
    )

    @ma.validates("overdue")
    def check_overdue(self, value: str | None, data_key: str) -> None:
        """Only `true` says anything."""
        if value not in (None, "true"):
            raise ma.ValidationError(Coded("not_allowed", "must be true, or left out"))


class SchedulePauseBody(Schema):
    """Why a schedule is paused, and for how long."""

    note = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Length(max=MAX_NOTE),
        metadata={"description": "Shown with the schedule and its occurrences.", "maxLength": MAX_NOTE},
    )
    until = Moment(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "format": "date-time",
            "description": "When it goes on by itself; null: when somebody resumes it.",
        },
    )


class ScheduleResumeBody(Schema):
    """How a schedule goes on."""

    policy = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf(_MISSED),
        metadata={"description": "What becomes of the occurrences of the pause; null: as its `on_resume` says."},
    )


class Misfire(Answer):
    """What becomes of occurrences that nobody noticed in time."""

    policy = fields.String(validate=ma.validate.OneOf(_MISSED))
    grace = fields.Float()
    max = fields.Integer()


class SchedulePause(Answer):
    """Why nothing of a schedule starts at present."""

    at = moment("Since when.")
    by = text("Who paused it.", allow_none=True)
    note = text("Why.", allow_none=True)
    until = moment("When it goes on by itself; null: when somebody resumes it.", allow_none=True)


class Schedule(Answer):
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
    start = moment("Nothing is due before.", allow_none=True)
    end = moment("Nothing is due then or later.", allow_none=True)
    max_runs = fields.Integer(allow_none=True)
    initial_delay = fields.Float()
    run_at_start = fields.Boolean()
    jitter = fields.Float()
    spread = fields.Float()
    parameters = fields.Dict()
    queue = fields.String(allow_none=True)
    priority = fields.Integer(allow_none=True)
    overlap = fields.String(validate=ma.validate.OneOf(_OVERLAPS))
    misfire = fields.Nested(Misfire)
    on_resume = fields.String(validate=ma.validate.OneOf(_MISSED))
    pause_after_failures = fields.Integer(allow_none=True)
    owner = text(
        "`code` and `job`: changed there, not here.",
        validate=ma.validate.OneOf([each.value for each in schedule.Owner]),
    )
    revision = integer("Counts the changes; the ETag is made from it.")
    state = text(
        "Whether it will start anything, and if not, why.",
        validate=ma.validate.OneOf([each.value for each in Standing]),
    )
    paused = fields.Nested(SchedulePause, allow_none=True)
    next_at = moment("The nominal time of what is due next; null: nothing is.", allow_none=True)
    settled_until = moment("Up to here every occurrence is in the ledger.")
    expected_by = moment("When that is in the ledger at the latest; null: nobody waits for it.", allow_none=True)
    overdue = fields.Boolean(metadata={"description": "Whether that has passed."})
    runs = integer("Executions so far.")
    failures = integer("How many of them failed in a row, up to now.")
    in_words = text("When it is due, in plain English; null: it cannot be read.", allow_none=True)
    warnings = fields.List(fields.String(), metadata={"description": "What may not be meant."})
    created_at = moment("When it was first described.")
    changed_at = moment("When it was last changed, paused or resumed.")
    links = fields.Dict(values=fields.String())


class ScheduleRevision(AsItWas):
    """A schedule as it was."""

    schedule = fields.String()
