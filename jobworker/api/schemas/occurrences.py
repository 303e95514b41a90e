"""Schemas of the occurrences of schedules, and of previews."""

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
from jobworker.services.schedules.backfill import MAX_CONCURRENCY, BackfillOrder
from jobworker.services.schedules.preview import MAX_OCCURRENCES
from jobworker.services.schedules.upcoming import ExpectedOutcome

_TIME = {"type": "string", "format": "date-time"}
_OUTCOMES = [outcome.value for outcome in OccurrenceOutcome]
_DEFAULT_PREVIEW_COUNT = 10

#: Maximum number of occurrences in the response to a backfill.
MAX_LISTED_OCCURRENCES = 1000


class OccurrenceQuerySchema(PageQuerySchema):
    """Query parameters of the list of occurrences."""

    begin = DateTimeField(
        load_default=None, data_key="from", metadata={**_TIME, "description": "Earliest nominal time."}
    )
    end = DateTimeField(
        load_default=None,
        data_key="to",
        metadata={**_TIME, "description": "End of the range of nominal times, exclusive."},
    )
    outcome = fields.String(load_default=None, validate=ma.validate.OneOf(_OUTCOMES))
    upcoming = LimitField(None, MAX_OCCURRENCES)

    @ma.validates_schema
    def check_upcoming(self, data: dict[str, Any], **_: Any) -> None:
        """Raise an error for filters that do not apply to upcoming occurrences, which have no outcome and no pages."""
        if data.get("upcoming") is not None:
            conflicting = [name for name in ("outcome", "cursor") if data.get(name) is not None]
            if conflicting:
                message = "cannot be combined with upcoming: it applies to recorded occurrences"
                raise ma.ValidationError({name: [CodedMessage("not_allowed", message)] for name in conflicting})


class OccurrenceBaseSchema(ResponseSchema):
    """Nominal time and its outcome."""

    scheduled_for = datetime_field("Nominal time.")
    local = datetime_field("Nominal time in the time zone of the schedule.")
    outcome = text_field(
        "Outcome of the occurrence; `expected`: it is upcoming, and an execution will start.",
        validate=ma.validate.OneOf([ExpectedOutcome.FIRE.value, *_OUTCOMES]),
    )
    reason = text_field("Reason for the outcome.", allow_none=True)
    notes = fields.List(
        fields.String(), metadata={"description": "Notes on the nominal time, such as a holiday or a change of clocks."}
    )


class OccurrenceSchema(OccurrenceBaseSchema):
    """Occurrence of a schedule."""

    execution_id = text_field("Id of the execution.", allow_none=True)
    recorded_at = datetime_field("Time when the occurrence was recorded; null: it is upcoming.", allow_none=True)
    links = fields.Dict(values=fields.String())


class FireBodySchema(StrictSchema):
    """Options of firing a schedule by hand."""

    overlap = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf([policy.value for policy in OverlapPolicy]),
        metadata={
            "description": "Overlap policy if an execution of the schedule has not ended; null: that of the schedule."
        },
    )


class FiredSchema(ResponseSchema):
    """Occurrence that was fired by hand."""

    occurrence = fields.Nested(OccurrenceSchema)
    execution = fields.Nested(
        ExecutionSchema,
        allow_none=True,
        metadata={"description": "Execution of the occurrence; null: the occurrence was skipped."},
    )


class BackfillBodySchema(StrictSchema):
    """Range and options of a backfill."""

    begin = DateTimeField(required=True, data_key="from", metadata={**_TIME, "description": "Earliest nominal time."})
    end = DateTimeField(
        required=True,
        data_key="to",
        metadata={**_TIME, "description": "End of the range of nominal times, exclusive; not in the future."},
    )
    dry_run = StrictBooleanField(
        load_default=False, metadata={"description": "Whether to return the result without changing anything."}
    )
    order = fields.String(
        load_default=BackfillOrder.OLDEST_FIRST.value,
        validate=ma.validate.OneOf([order.value for order in BackfillOrder]),
    )
    concurrency = StrictIntegerField(
        load_default=1,
        validate=ma.validate.Range(1, MAX_CONCURRENCY),
        metadata={
            "minimum": 1,
            "maximum": MAX_CONCURRENCY,
            "description": "Maximum number of executions that run at a time.",
        },
    )
    parameters = fields.Dict(
        load_default=dict, metadata={"description": "Parameters that override those of the schedule and of its job."}
    )


class FilledOccurrenceSchema(ResponseSchema):
    """Occurrence that gets an execution."""

    scheduled_for = datetime_field("Nominal time.")
    was = text_field("Outcome recorded before the backfill; null: none.", allow_none=True)
    execution_id = text_field("Id of the execution; null in a dry run.", allow_none=True)


class NotFilledSchema(ResponseSchema):
    """Numbers of occurrences in the range that get no execution."""

    fired = integer_field("Occurrences that already have an execution, in any state.")
    forbidden = integer_field("Occurrences excluded by calendars.")
    pending = integer_field("Occurrences that are due and about to be evaluated.")
    duplicate = integer_field("Occurrences whose unique key another execution holds.")


class BackfilledSchema(ResponseSchema):
    """Result of a backfill, or of its dry run."""

    schedule = fields.String()
    dry_run = fields.Boolean()
    count = integer_field("Number of occurrences that get an execution.")
    left_out = fields.Nested(NotFilledSchema)
    batch_id = text_field("Id of the batch of the executions; null: no executions were created.", allow_none=True)
    occurrences = fields.List(
        fields.Nested(FilledOccurrenceSchema),
        metadata={"description": f"First {MAX_LISTED_OCCURRENCES} occurrences in the order of execution."},
    )
    links = fields.Dict(values=fields.String())


class PreviewScheduleBodySchema(ScheduleBodySchema):
    """Schedule to preview, with options; `name` and `job` are optional."""

    name = fields.Raw(
        allow_none=True, metadata={"type": "string", "description": "Name of the schedule; null: not decided."}
    )
    job = fields.Raw(
        allow_none=True,
        metadata={"type": "string", "description": "Job of the schedule; null: job and parameters are not checked."},
    )
    count = StrictIntegerField(
        load_default=_DEFAULT_PREVIEW_COUNT,
        validate=ma.validate.Range(1, MAX_OCCURRENCES),
        metadata={"minimum": 1, "maximum": MAX_OCCURRENCES, "description": "Maximum number of upcoming occurrences."},
    )
    after = DateTimeField(
        load_default=None,
        allow_none=True,
        data_key="from",
        metadata={**_TIME, "description": "Time after which occurrences are listed; null: now."},
    )
    calendars = fields.Dict(
        load_default=dict,
        metadata={"description": "Calendars by name that are not saved, or that replace saved ones in the preview."},
    )
    schedule = fields.String(
        load_default=None,
        allow_none=True,
        validate=check_text,
        metadata={"description": "Saved schedule to compare with, which also supplies name and job."},
    )


class ComparedSchema(ResponseSchema):
    """Differences from the saved schedule."""

    schedule = fields.String()
    revision = integer_field("Current revision of the saved schedule.")
    fields_ = fields.List(fields.Nested(DifferenceSchema), data_key="fields")
    comes = fields.List(
        datetime_field("Time in UTC."),
        metadata={"description": "Times at which only the previewed schedule starts an execution."},
    )
    goes = fields.List(
        datetime_field("Time in UTC."),
        metadata={"description": "Times at which only the saved schedule starts an execution."},
    )
    until = datetime_field("End of the compared range; null: unlimited.", allow_none=True)


class SchedulePreviewSchema(ResponseSchema):
    """Preview of a schedule."""

    schedule = fields.Dict(metadata={"description": "Parsed schedule, with its defaults."})
    in_words = text_field("Description of the rule in plain English.")
    warnings = fields.List(fields.String(), metadata={"description": "Warnings about probable mistakes."})
    occurrences = fields.List(fields.Nested(OccurrenceBaseSchema))
    difference = fields.Nested(ComparedSchema, allow_none=True)


def split_preview_body(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the body of a preview into the definition of the schedule and the options of the preview."""
    preview_options = {name: body.pop(name) for name in ("count", "after", "calendars", "schedule")}
    return {
        name: value for name, value in body.items() if value is not None or name not in ("name", "job")
    }, preview_options
