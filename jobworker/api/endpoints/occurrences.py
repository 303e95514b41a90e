"""Endpoints of /api/v1/schedules for occurrences: recorded, upcoming, previewed, fired by hand, backfilled."""

from typing import Any

from flask import Response

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.endpoints.schedules import ROOT
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import make_page_schema
from jobworker.api.schemas.occurrences import (
    MAX_LISTED_OCCURRENCES,
    BackfillBodySchema,
    BackfilledSchema,
    FireBodySchema,
    FiredSchema,
    OccurrenceQuerySchema,
    OccurrenceSchema,
    PreviewScheduleBodySchema,
    SchedulePreviewSchema,
    split_preview_body,
)
from jobworker.domain.errors import (
    Conflict,
    IdempotencyKeyReused,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    ScheduleNotFound,
    TaskNotFound,
    UniqueKeyConflict,
    UnknownQueue,
)
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import OverlapPolicy
from jobworker.domain.schedules.timetable import Timetable
from jobworker.services.schedules import backfill as backfills
from jobworker.services.schedules import occurrences
from jobworker.services.schedules import preview as previews
from jobworker.services.schedules.backfill import BackfillOrder
from jobworker.services.schedules.preview import PreviewRequest, PreviewResult, ScheduleComparison
from jobworker.services.schedules.upcoming import ExpectedOccurrence, list_notes
from jobworker.store.schedules import occurrence_rows
from jobworker.store.schedules.occurrence_rows import OccurrenceFilters

blueprint = Blueprint(
    "occurrences",
    __name__,
    url_prefix=ROOT,
    description="Occurrences of schedules. Each is recorded with its outcome.",
)

_LOCATION = {"Location": {"description": "URL of the execution.", "schema": {"type": "string"}}}


@blueprint.post("/preview")
@blueprint.arguments(PreviewScheduleBodySchema())
@blueprint.document_response(200, SchedulePreviewSchema(), "The preview.")
@blueprint.document_problems(ScheduleNotFound, UnknownQueue)
def preview_schedule(body: dict[str, Any]) -> Response:
    """Preview when a schedule would be due, without saving it, and compare it with a saved one."""
    definition, preview_options = split_preview_body(body)
    options = PreviewRequest(
        definition,
        preview_options["count"],
        preview_options["after"],
        preview_options["calendars"],
        preview_options["schedule"],
    )
    return make_json_response(
        _serialize_preview(previews.preview_schedule(get_context().database, get_context().clock, options))
    )


@blueprint.get("/<schedule:name>/occurrences")
@blueprint.accept_query(OccurrenceQuerySchema())
@blueprint.document_response(
    200,
    make_page_schema(OccurrenceSchema),
    "Recorded occurrences, latest first; or upcoming occurrences, earliest first.",
)
@blueprint.document_problems(ScheduleNotFound, Conflict)
def list_occurrences(query: dict[str, Any], name: str) -> Response:
    """List the recorded occurrences of a schedule or, with `upcoming`, that number of future ones.

    `from` and `to` apply to both. The occurrences of a deleted schedule are listed by its id.
    """
    outcome = OccurrenceOutcome(query["outcome"]) if query["outcome"] else None
    time_range = OccurrenceFilters(query["begin"], query["end"], outcome)
    if query["upcoming"] is not None:
        upcoming = occurrences.list_upcoming(get_context().database, name, time_range, query["upcoming"])
        items = [
            {**_serialize_upcoming(occurrence), "execution_id": None, "recorded_at": None, "links": {}}
            for occurrence in upcoming
        ]
        return make_json_response({"items": items, "next": None})
    timetable, page = occurrences.list_recorded(
        get_context().database, name, time_range, query["limit"], query["cursor"]
    )
    return make_json_response(
        serializers.serialize_page(page, lambda occurrence: _serialize_recorded(occurrence, timetable))
    )


@blueprint.post("/<schedule:name>/fire")
@blueprint.arguments(FireBodySchema(), required=False)
@blueprint.document_response(202, FiredSchema(), "An execution was accepted.", headers=_LOCATION)
@blueprint.document_response(200, FiredSchema(), "No execution was created; the occurrence contains the reason.")
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(ScheduleNotFound, Conflict, JobDisabled, JobRemoved, IdempotencyKeyReused)
def fire_schedule(body: dict[str, Any], name: str) -> Response:
    """Fire a schedule now, even while it is paused. The nominal time of the occurrence is the current time."""
    overlap = OverlapPolicy(body["overlap"]) if body["overlap"] else None
    fired = occurrences.fire(
        get_context().database, get_context().clock, name, overlap, ACTOR, headers.read_idempotency_key()
    )
    get_context().notify_change()
    result = {
        "occurrence": _serialize_recorded(fired.occurrence, fired.timetable),
        "execution": serializers.serialize_execution(fired.execution) if fired.execution else None,
    }
    if fired.execution is None:
        return make_json_response(result)
    return make_json_response(result, 202, {"Location": f"{serializers.ROOT}/executions/{fired.execution.id}"})


@blueprint.post("/<schedule:name>/backfill")
@blueprint.arguments(BackfillBodySchema())
@blueprint.document_response(200, BackfilledSchema(), "Result of the dry run, or no occurrence needs an execution.")
@blueprint.document_response(202, BackfilledSchema(), "The executions were accepted.")
@blueprint.document_problems(
    ScheduleNotFound, Conflict, JobDisabled, JobRemoved, UniqueKeyConflict, TaskNotFound, InvalidParameters
)
def backfill_schedule(body: dict[str, Any], name: str) -> Response:
    """Create executions for past occurrences that have none, including those before the schedule was created.

    Repeating the request creates nothing.
    """
    options = backfills.BackfillRequest(**{**body, "order": BackfillOrder(body["order"])})
    result = backfills.backfill_schedule(get_context().database, get_context().clock, name, options, ACTOR)
    if result.batch_id is not None:
        get_context().record_submissions(len(result.items))
    batch = {"batch": f"{serializers.ROOT}/batches/{result.batch_id}"} if result.batch_id else {}
    fields = {
        "schedule": name,
        "dry_run": options.dry_run,
        "count": len(result.items),
        "left_out": result.skip_counts,
        "batch_id": result.batch_id,
        "occurrences": result.items[:MAX_LISTED_OCCURRENCES],
        "links": batch,
    }
    return make_json_response(fields, 202 if result.batch_id else 200)


def _serialize_recorded(row: occurrence_rows.OccurrenceRow, timetable: Timetable) -> dict[str, Any]:
    return {
        "scheduled_for": row.scheduled_for,
        "local": row.scheduled_for.astimezone(timetable.zone).isoformat(),
        "outcome": row.outcome,
        "reason": row.reason,
        "notes": list_notes(timetable, row.scheduled_for),
        "execution_id": row.execution_id,
        "recorded_at": row.recorded_at,
        "links": {"execution": f"{serializers.ROOT}/executions/{row.execution_id}"} if row.execution_id else {},
    }


def _serialize_upcoming(upcoming: ExpectedOccurrence) -> dict[str, Any]:
    return {
        "scheduled_for": upcoming.at,
        "local": upcoming.local.isoformat(),
        "outcome": upcoming.outcome.value,
        "reason": upcoming.reason,
        "notes": upcoming.notes,
    }


def _serialize_preview(preview: PreviewResult) -> dict[str, Any]:
    return {
        "schedule": preview.schedule,
        "in_words": preview.in_words,
        "warnings": preview.warnings,
        "occurrences": [_serialize_upcoming(occurrence) for occurrence in preview.moments],
        "difference": _serialize_comparison(preview.compared) if preview.compared else None,
    }


def _serialize_comparison(comparison: ScheduleComparison) -> dict[str, Any]:
    return {
        "schedule": comparison.row.name,
        "revision": comparison.row.revision,
        "fields": comparison.fields,
        "comes": comparison.comes,
        "goes": comparison.goes,
        "until": comparison.until,
    }
