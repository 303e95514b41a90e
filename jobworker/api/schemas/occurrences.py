"""Occurrences of schedules, and previews of them."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Coded, Count, Flag, Limit, Moment
from jobworker.api.schemas.base import Answer, PageQuery, Schema, integer, moment, text
from jobworker.api.schemas.executions import Execution
from jobworker.api.schemas.filters import check_text
from jobworker.api.schemas.revisions import Difference
from jobworker.api.schemas.schedules import ScheduleBody
from jobworker.domain.schedule import Overlap
from jobworker.domain.settling import Outcome
from jobworker.services.backfill import MOST_LANES, Order
from jobworker.services.coming import Expected
from jobworker.services.preview import MOST

_TIME = {"type": "string", "format": "date-time"}
_OUTCOMES = [each.value for each in Outcome]
_SHOWN = 10

#: So many occurrences of a backfill are told.
SHOWN = 1000


class OccurrenceQuery(PageQuery):
    """Which occurrences of a schedule."""

    begin = Moment(load_default=None, data_key="from", metadata={**_TIME, "description": "Nominal times from then on."})
    end = Moment(load_default=None, data_key="to", metadata={**_TIME, "description": "Nominal times before that."})
    outcome = fields.String(load_default=None, validate=ma.validate.OneOf(_OUTCOMES))
    upcoming = Limit(None, MOST)

    @ma.validates_schema
    def check_upcoming(self, data: dict[str, Any], **_: Any) -> None:
        """What is ahead has no outcome yet, and no pages."""
        if data.get("upcoming") is not None:
            wrong = [name for name in ("outcome", "cursor") if data.get(name) is not None]
            if wrong:
                message = "does not go with upcoming: it is about what has been"
                raise ma.ValidationError({name: [Coded("not_allowed", message)] for name in wrong})


class OccurrenceBase(Answer):
    """A nominal time, and what becomes of it."""

    scheduled_for = moment("The nominal time.")
    local = moment("The same, as clocks of the schedule's zone show it.")
    outcome = text(
        "What became of it; `expected`: it is ahead, and something will start.",
        validate=ma.validate.OneOf([Expected.FIRE.value, *_OUTCOMES]),
    )
    reason = text("Why.", allow_none=True)
    notes = fields.List(
        fields.String(), metadata={"description": "What is remarkable about it: a holiday, clocks that change."}
    )


class Occurrence(OccurrenceBase):
    """An occurrence of a schedule."""

    execution_id = text("Its execution.", allow_none=True)
    recorded_at = moment("When this was entered in the ledger; null: it is ahead.", allow_none=True)
    links = fields.Dict(values=fields.String())


class FireBody(Schema):
    """What is different about one more occurrence."""

    overlap = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf([each.value for each in Overlap]),
        metadata={"description": "What if an execution of the schedule has not ended; null: as the schedule says."},
    )


class Fired(Answer):
    """One more occurrence."""

    occurrence = fields.Nested(Occurrence)
    execution = fields.Nested(Execution, allow_none=True, metadata={"description": "null: it was left out."})


class BackfillBody(Schema):
    """Which past occurrences are made up for, and how."""

    begin = Moment(required=True, data_key="from", metadata={**_TIME, "description": "Nominal times from then on."})
    end = Moment(required=True, data_key="to", metadata={**_TIME, "description": "Before that; not in the future."})
    dry_run = Flag(load_default=False, metadata={"description": "Only say what would be done."})
    order = fields.String(
        load_default=Order.OLDEST_FIRST.value, validate=ma.validate.OneOf([each.value for each in Order])
    )
    concurrency = Count(
        load_default=1,
        validate=ma.validate.Range(1, MOST_LANES),
        metadata={"minimum": 1, "maximum": MOST_LANES, "description": "How many run at a time."},
    )
    parameters = fields.Dict(
        load_default=dict, metadata={"description": "They go before those of the schedule and of its job."}
    )


class FilledOccurrence(Answer):
    """An occurrence that gets an execution."""

    scheduled_for = moment("The nominal time.")
    was = text("What the ledger said about it before; null: nothing.", allow_none=True)
    execution_id = text("null: it was a dry run.", allow_none=True)


class NotFilled(Answer):
    """How many occurrences of the range get no execution."""

    fired = integer("They have one already, however it ended.")
    forbidden = integer("Calendars forbid them.")
    pending = integer("They are due, and settled by themselves in a moment.")
    duplicate = integer("Another execution has the unique key.")


class Backfilled(Answer):
    """What was done, or would be."""

    schedule = fields.String()
    dry_run = fields.Boolean()
    count = integer("How many occurrences get an execution.")
    left_out = fields.Nested(NotFilled)
    batch_id = text("The batch of the executions; null: there are none.", allow_none=True)
    occurrences = fields.List(
        fields.Nested(FilledOccurrence), metadata={"description": f"The first {SHOWN} in the order of their runs."}
    )
    links = fields.Dict(values=fields.String())


class PreviewScheduleBody(ScheduleBody):
    """The schedule to look at; it need not have a name or a job."""

    name = fields.Raw(allow_none=True, metadata={"type": "string", "description": "null: whatever it will be."})
    job = fields.Raw(
        allow_none=True, metadata={"type": "string", "description": "null: not checked; nor are the parameters."}
    )
    count = Count(
        load_default=_SHOWN,
        validate=ma.validate.Range(1, MOST),
        metadata={"minimum": 1, "maximum": MOST, "description": "How many moments to show."},
    )
    after = Moment(
        load_default=None,
        allow_none=True,
        data_key="from",
        metadata={**_TIME, "description": "Moments after this one; null: now."},
    )
    calendars = fields.Dict(
        load_default=dict, metadata={"description": "Calendars that are not saved, or not like this, by name."}
    )
    schedule = fields.String(
        load_default=None,
        allow_none=True,
        validate=check_text,
        metadata={"description": "The saved schedule to compare with; its name and job are taken over."},
    )


class Compared(Answer):
    """What is different from the saved schedule."""

    schedule = fields.String()
    revision = integer("Of the saved schedule.")
    fields_ = fields.List(fields.Nested(Difference), data_key="fields")
    comes = fields.List(
        moment("UTC."), metadata={"description": "Moments at which something starts then, and does not now."}
    )
    goes = fields.List(
        moment("UTC."), metadata={"description": "Moments at which something starts now, and does not then."}
    )
    until = moment("Up to here these are all there are; null: for ever.", allow_none=True)


class SchedulePreview(Answer):
    """What a schedule would do."""

    schedule = fields.Dict(metadata={"description": "As it was understood, with its defaults."})
    in_words = text("When it is due, in plain English.")
    warnings = fields.List(fields.String(), metadata={"description": "What may not be meant."})
    occurrences = fields.List(fields.Nested(OccurrenceBase))
    difference = fields.Nested(Compared, allow_none=True)


def split(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of the body of a preview describes the schedule, and what says how to look at it."""
    about = {name: body.pop(name) for name in ("count", "after", "calendars", "schedule")}
    return {name: value for name, value in body.items() if value is not None or name not in ("name", "job")}, about
