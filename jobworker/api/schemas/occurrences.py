"""Occurrences of schedules, and previews of them."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage, DateTimeField, LimitField, StrictBooleanField, StrictIntegerField
from jobworker.api.schemas.base import (
    PageQuerySchema,
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    text_field,
)
from jobworker.api.schemas.executions import ExecutionSchema
from jobworker.api.schemas.filters import check_text
from jobworker.api.schemas.revisions import DifferenceSchema
from jobworker.api.schemas.schedules import ScheduleBodySchema
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import OverlapPolicy
from jobworker.services.schedules.backfill import MAX_LANES, BackfillOrder
from jobworker.services.schedules.preview import MAX_OCCURRENCES
from jobworker.services.schedules.upcoming import ExpectedOutcome

_TIME = {"type": "string", "format": "date-time"}
_OUTCOMES = [each.value for each in OccurrenceOutcome]
_DEFAULT_PREVIEW_COUNT = 10

#: So many occurrences of a backfill are told.
MAX_LISTED_OCCURRENCES = 1000


class OccurrenceQuerySchema(PageQuerySchema):
    """Which occurrences of a schedule."""

    begin = DateTimeField(
        load_default=None, data_key="from", metadata={**_TIME, "description": "Nominal times from then on."}
    )
    end = DateTimeField(
        load_default=None, data_key="to", metadata={**_TIME, "description": "Nominal times before that."}
    )
    outcome = fields.String(load_default=None, validate=ma.validate.OneOf(_OUTCOMES))
    upcoming = LimitField(None, MAX_OCCURRENCES)

    @ma.validates_schema
    def check_upcoming(self, data: dict[str, Any], **_: Any) -> None:
        """What is ahead has no outcome yet, and no pages."""
        if data.get("upcoming") is not None:
            conflicting = [name for name in ("outcome", "cursor") if data.get(name) is not None]
            if conflicting:
                message = "does not go with upcoming: it is about what has been"
                raise ma.ValidationError({name: [CodedMessage("not_allowed", message)] for name in conflicting})


class OccurrenceBaseSchema(ResponseSchema):
    """A nominal time, and what becomes of it."""

    scheduled_for = datetime_field("The nominal time.")
    local = datetime_field("The same, as clocks of the schedule's zone show it.")
    outcome = text_field(
        "What became of it; `expected`: it is ahead, and something will start.",
        validate=ma.validate.OneOf([ExpectedOutcome.FIRE.value, *_OUTCOMES]),
    )
    reason = text_field("Why.", allow_none=True)
    notes = fields.List(
        fields.String(), metadata={"description": "What is remarkable about it: a holiday, clocks that change."}
    )


class OccurrenceSchema(OccurrenceBaseSchema):
    """An occurrence of a schedule."""

    execution_id = text_field("Its execution.", allow_none=True)
    recorded_at = datetime_field("When this was entered in the ledger; null: it is ahead.", allow_none=True)
    links = fields.Dict(values=fields.String())


class FireBodySchema(StrictSchema):
    """What is different about one more occurrence."""

    overlap = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf([each.value for each in OverlapPolicy]),
        metadata={"description": "What if an execution of the schedule has not ended; null: as the schedule says."},
    )


class FiredSchema(ResponseSchema):
    """One more occurrence."""

    occurrence = fields.Nested(OccurrenceSchema)
    execution = fields.Nested(ExecutionSchema, allow_none=True, metadata={"description": "null: it was left out."})


class BackfillBodySchema(StrictSchema):
    """Which past occurrences are made up for, and how."""

    begin = DateTimeField(
        required=True, data_key="from", metadata={**_TIME, "description": "Nominal times from then on."}
    )
    end = DateTimeField(
        required=True, data_key="to", metadata={**_TIME, "description": "Before that; not in the future."}
    )
    dry_run = StrictBooleanField(load_default=False, metadata={"description": "Only say what would be done."})
    order = fields.String(
        load_default=BackfillOrder.OLDEST_FIRST.value,
        validate=ma.validate.OneOf([each.value for each in BackfillOrder]),
    )
    concurrency = StrictIntegerField(
        load_default=1,
        validate=ma.validate.Range(1, MAX_LANES),
        metadata={"minimum": 1, "maximum": MAX_LANES, "description": "How many run at a time."},
    )
    parameters = fields.Dict(
        load_default=dict, metadata={"description": "They go before those of the schedule and of its job."}
    )


class FilledOccurrenceSchema(ResponseSchema):
    """An occurrence that gets an execution."""

    scheduled_for = datetime_field("The nominal time.")
    was = text_field("What the ledger said about it before; null: nothing.", allow_none=True)
    execution_id = text_field("null: it was a dry run.", allow_none=True)


class NotFilledSchema(ResponseSchema):
    """How many occurrences of the range get no execution."""

    fired = integer_field("They have one already, however it ended.")
    forbidden = integer_field("Calendars forbid them.")
    pending = integer_field("They are due, and settled by themselves in a moment.")
    duplicate = integer_field("Another execution has the unique key.")


class BackfilledSchema(ResponseSchema):
    """What was done, or would be."""

    schedule = fields.String()
    dry_run = fields.Boolean()
    count = integer_field("How many occurrences get an execution.")
    left_out = fields.Nested(NotFilledSchema)
    batch_id = text_field("The batch of the executions; null: there are none.", allow_none=True)
    occurrences = fields.List(
        fields.Nested(FilledOccurrenceSchema),
        metadata={"description": f"The first {MAX_LISTED_OCCURRENCES} in the order of their runs."},
    )
    links = fields.Dict(values=fields.String())


class PreviewScheduleBodySchema(ScheduleBodySchema):
    """The schedule to look at; it need not have a name or a job."""

    name = fields.Raw(allow_none=True, metadata={"type": "string", "description": "null: whatever it will be."})
    job = fields.Raw(
        allow_none=True, metadata={"type": "string", "description": "null: not checked; nor are the parameters."}
    )
    count = StrictIntegerField(
        load_default=_DEFAULT_PREVIEW_COUNT,
        validate=ma.validate.Range(1, MAX_OCCURRENCES),
        metadata={"minimum": 1, "maximum": MAX_OCCURRENCES, "description": "How many moments to show."},
    )
    after = DateTimeField(
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


class ComparedSchema(ResponseSchema):
    """What is different from the saved schedule."""

    schedule = fields.String()
    revision = integer_field("Of the saved schedule.")
    fields_ = fields.List(fields.Nested(DifferenceSchema), data_key="fields")
    comes = fields.List(
        datetime_field("UTC."), metadata={"description": "Moments at which something starts then, and does not now."}
    )
    goes = fields.List(
        datetime_field("UTC."), metadata={"description": "Moments at which something starts now, and does not then."}
    )
    until = datetime_field("Up to here these are all there are; null: for ever.", allow_none=True)


class SchedulePreviewSchema(ResponseSchema):
    """What a schedule would do."""

    schedule = fields.Dict(metadata={"description": "As it was understood, with its defaults."})
    in_words = text_field("When it is due, in plain English.")
    warnings = fields.List(fields.String(), metadata={"description": "What may not be meant."})
    occurrences = fields.List(fields.Nested(OccurrenceBaseSchema))
    difference = fields.Nested(ComparedSchema, allow_none=True)


def split_preview_body(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of the body of a preview describes the schedule, and what says how to look at it."""
    preview_options = {name: body.pop(name) for name in ("count", "after", "calendars", "schedule")}
    return {
        name: value for name, value in body.items() if value is not None or name not in ("name", "job")
    }, preview_options
